"""The heads of OWL-ViT and OWLv2: from patch tokens to classes, boxes and objectness.

Outputs, gradients and parameter names are equal to those of transformers' OwlViT and Owlv2 heads.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

NORM_EPSILON = 1e-6
LOGIT_EPSILON = 1e-4
SCALE, SHIFT = 10.0, -0.46
"""Initial scale and shift: a cosine of 0 has the probability 0.01 (RetinaNet's prior). OWL-ViT begins at 1 and 0, and
then needs a hundred times more steps."""


def unit(features: Tensor) -> Tensor:
    """Scale features [..., D] to unit length as OWL-ViT does; a very small vector stays shorter."""
    length: Tensor = torch.linalg.norm(features, dim=-1, keepdim=True)
    return features / (length + NORM_EPSILON)


class MLP(nn.Module):
    """Three linear layers with GELU between them; the last is initialised to zero."""

    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.dense0, self.dense1, self.dense2 = nn.Linear(width, width), nn.Linear(width, width), nn.Linear(width, out)
        nn.init.zeros_(self.dense2.weight)
        nn.init.zeros_(self.dense2.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Output [..., out] for x [..., width]."""
        out: Tensor = self.dense2(F.gelu(self.dense1(F.gelu(self.dense0(x)))))
        return out


class ClassHead(nn.Module):
    """Logits (cos(W x, query) + shift(x)) * (elu(scale(x)) + 1)."""

    def __init__(self, width: int, embed_dim: int) -> None:
        super().__init__()
        self.dense0 = nn.Linear(width, embed_dim)
        self.logit_shift, self.logit_scale = nn.Linear(width, 1), nn.Linear(width, 1)
        nn.init.normal_(self.dense0.weight, std=1e-6)
        nn.init.zeros_(self.dense0.bias)
        for layer, bias in ((self.logit_shift, SHIFT), (self.logit_scale, SCALE - 1)):
            nn.init.zeros_(layer.weight)
            nn.init.constant_(layer.bias, bias)

    def embed(self, x: Tensor) -> Tensor:
        """Features [B, N, D] of the patches in the space of the texts, not normalised, from tokens [B, N, C]."""
        embeddings: Tensor = self.dense0(x)
        return embeddings

    def forward(self, x: Tensor, queries: Tensor) -> Tensor:
        """Logits [B, N, Q] of tokens [B, N, C] for queries [Q, D] or [B, Q, D]: unit vectors or means of them."""
        cosines = unit(self.embed(x)) @ queries.to(x.dtype).transpose(-1, -2)
        logits: Tensor = (cosines + self.logit_shift(x)) * (F.elu(self.logit_scale(x)) + 1)
        return logits


class Found(NamedTuple):
    """Outputs of the heads for the N = h w patches of each image."""

    logits: Tensor  # [B, N, Q]
    boxes: Tensor  # [B, N, 4]: centre and size as fractions of the square image's side
    objectness: Tensor | None  # [B, N] logits: whether a patch shows any object


class DetectionHead(nn.Module):
    """Heads on merged tokens; `objectness` adds OWLv2's head, which sends no gradient into the tower."""

    def __init__(self, width: int, embed_dim: int, *, objectness: bool = False) -> None:
        super().__init__()
        self.layer_norm = nn.LayerNorm(width)
        self.class_head = ClassHead(width, embed_dim)
        self.box_head = MLP(width, 4)
        self.objectness_head = MLP(width, 1) if objectness else None

    def merge(self, patches: Tensor, pooled: Tensor) -> Tensor:
        """Tokens [B, N, C]: layer norm of patches [B, h, w, C] times the tower's pooled token [B, C]."""
        merged: Tensor = self.layer_norm((patches * pooled[:, None, None]).flatten(1, 2))
        return merged

    def boxes(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        """Boxes [B, N, 4] of tokens [B, N, C] of a grid (h, w); with zero weights they are those of `box_bias`."""
        raw: Tensor = self.box_head(x)
        return (raw + box_bias(*grid, device=x.device)).sigmoid()

    def forward(self, patches: Tensor, pooled: Tensor, queries: Tensor) -> Found:
        """Outputs for patches [B, h, w, C], the tower's pooled token [B, C], and queries [Q, D] or [B, Q, D]."""
        x = self.merge(patches, pooled)
        objectness = None if self.objectness_head is None else self.objectness_head(x.detach()).squeeze(-1)
        boxes = self.boxes(x, (patches.shape[1], patches.shape[2]))
        return Found(self.class_head(x, queries), boxes, objectness)

    def examples(self, patches: Tensor, pooled: Tensor) -> tuple[Tensor, Tensor]:
        """Boxes [B, N, 4] and features [B, N, D] of patches, which can be queries; see `forward` and `embed`."""
        x = self.merge(patches, pooled)
        return self.boxes(x, (patches.shape[1], patches.shape[2])), self.class_head.embed(x)


def box_bias(height: int, width: int, *, device: torch.device | str = "cpu") -> Tensor:
    """Initial boxes as logits [height * width, 4]: of a patch's size, centred on its lower right corner."""
    y = torch.arange(1, height + 1, device=device, dtype=torch.float32) / height
    x = torch.arange(1, width + 1, device=device, dtype=torch.float32) / width
    centre = torch.stack([x.expand(height, width), y[:, None].expand(height, width)], dim=-1)
    size = torch.tensor([1 / width, 1 / height], device=device).expand(height, width, 2)
    shares = torch.cat([centre, size], dim=-1).flatten(0, 1)
    return torch.log(shares + LOGIT_EPSILON) - torch.log1p(LOGIT_EPSILON - shares)
