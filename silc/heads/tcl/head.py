"""TCL's head: a copy of the tower's last block and projection; between them a decoder makes the grid four times finer.

Names and numbers are those of kakaobrain/tcl `models/tcl` (MIT). TCL is published for a tower with a class token. With
MAP or mean pooling, the steps after the decoder are those of the model's dense readout; this combination is ours.
"""

from __future__ import annotations

import copy
import math
from typing import TYPE_CHECKING, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from silc.losses.guards import no_autocast
from silc.models.readouts import map_value, value_path

if TYPE_CHECKING:
    from silc.models.image import ImageTower
    from silc.models.vit import Block


class GatedConv(nn.Module):
    """x + tanh(gate) conv(gelu(norm x)); the gate starts at 0, so that this begins as the identity."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.conv = nn.Conv2d(width, width, 3, padding=1)
        self.gate = nn.Parameter(torch.zeros(1))  # sharding refuses parameters without a dimension

    def forward(self, x: Tensor) -> Tensor:
        """Output [B, C, h, w] for x [B, C, h, w]."""
        normed = self.norm(x.movedim(1, -1)).movedim(-1, 1)
        out: Tensor = x + torch.tanh(self.gate) * self.conv(F.gelu(normed))
        return out


class Doubling(nn.Module):
    """Nearest-neighbour upsampling by 2, then two gated convolutions."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second = GatedConv(width), GatedConv(width)

    def forward(self, x: Tensor) -> Tensor:
        """Output [B, C, 2h, 2w] for x [B, C, h, w]."""
        out: Tensor = self.second(self.first(F.interpolate(x, scale_factor=2, mode="nearest")))
        return out


class TclHead(nn.Module):
    """Text-aligned features and masks at four times the resolution of the tower's patches.

    Args:
        tower: the head begins with copies of its last block, norm, pooling and projection.
        mask_scale, mask_bias: initial values for the masks sigmoid(scale cos + bias).
        temperature: initial temperature of the two image-text losses.
    """

    def __init__(self, tower: ImageTower, *, mask_scale: float, mask_bias: float, temperature: float) -> None:
        super().__init__()
        trunk = tower.trunk
        self.block = copy.deepcopy(cast("Block", trunk.blocks[-1]))
        self.norm, self.attn_pool = copy.deepcopy(trunk.norm), copy.deepcopy(trunk.attn_pool)
        self.projection = copy.deepcopy(tower.head)
        self.decoder = nn.Sequential(*(Doubling(trunk.pos_embed.shape[-1]) for _ in range(2)))
        self.mask_scale = nn.Parameter(torch.full((1,), mask_scale))
        self.mask_bias = nn.Parameter(torch.full((1,), mask_bias))
        self.image_scale, self.feature_scale = (nn.Parameter(torch.tensor([-math.log(temperature)])) for _ in "12")
        self.requires_grad_(True)
        if self.attn_pool is not None:  # attention over one patch gives its value, whatever the query
            self.attn_pool.latent.requires_grad_(False)
            self.attn_pool.q.requires_grad_(False)

    def features(self, tower: ImageTower, images: Tensor) -> Tensor:
        """Features [B, D, 4h, 4w], not of unit length, of normalised images [B, 3, H, W].

        Args:
            tower: the tower below the head; it gets no gradient.
        """
        with torch.no_grad():
            (entering,) = tower.trunk.tokens(images, layers=[-1], last_block=lambda _, x: x).layers
        patches = tower.without_prefix(value_path(self.block, entering)).unflatten(1, tower.grid(images))
        fine = self.decoder(patches.movedim(-1, 1)).movedim(1, -1)
        tokens = self.norm(fine)
        aligned = self.projection(map_value(self, tokens) if self.attn_pool is not None else tokens)
        return aligned.float().movedim(-1, 1)  # type: ignore[no-any-return]

    def mask_logits(self, features: Tensor, texts: Tensor) -> Tensor:
        """Logits [B, N, 4h, 4w] of the masks of unit-length texts [N, D] in images with these features."""
        with no_autocast(features):
            cosines = torch.einsum("bdhw,nd->bnhw", F.normalize(features, dim=1, eps=1e-6), texts)
            return cosines * self.mask_scale + self.mask_bias
