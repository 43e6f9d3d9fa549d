"""PACL's embedding of patches, and how well an image, weighted by a text, matches that text."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from silc.losses.guards import no_autocast

if TYPE_CHECKING:
    from silc.heads.pacl.config import PaclConfig

AT_ONCE = 2**22
"""Elements of a block of similarities [images, patches, texts]: 16 MB in float32; a few blocks exist at a time.
`unit_pooled` adds a block [images, texts, D], which is D / patches as large."""
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"relu": F.relu, "gelu": F.gelu}


class PaclHead(nn.Module):
    """Embeds patches and texts in one space: e_v(x) = fc2(act(fc1 x)) + skip x; e_t(y) = y, or a linear layer on y.

    Args:
        width: C of the tower's patches.
        embed_dim: D of the texts' features.
    """

    def __init__(self, width: int, embed_dim: int, config: PaclConfig) -> None:
        super().__init__()
        hidden = config.hidden or embed_dim
        self.fc1, self.fc2 = nn.Linear(width, hidden), nn.Linear(hidden, embed_dim)
        self.skip = nn.Linear(width, embed_dim)
        self.text = nn.Linear(embed_dim, embed_dim) if config.text_layer else nn.Identity()
        self.act, self.unit = ACTIVATIONS[config.activation], config.similarity == "cosine"

    def patches(self, x: Tensor) -> Tensor:
        """Embed the tower's patches [..., C]: [..., D], of unit length if similarities are cosines."""
        return self._scaled(self.fc2(self.act(self.fc1(x))) + self.skip(x))

    def texts(self, y: Tensor) -> Tensor:
        """Embed text features [N, D]: [N, D], of unit length if similarities are cosines."""
        return self._scaled(self.text(y))

    def _scaled(self, x: Tensor) -> Tensor:
        x = x.to(torch.promote_types(x.dtype, torch.float32))
        return F.normalize(x, dim=-1) if self.unit else x


def compatibility(patches: Tensor, texts: Tensor, *, unit_pooled: bool = False, at_once: int = AT_ONCE) -> Tensor:
    """How well each image matches each text, [B, N], from embedded patches [B, P, D] and texts [N, D].

        s_p = x_p.y      a = softmax over p of s_p      <sum_p a_p x_p, y>

    It works in blocks: memory holds the similarities of a few images with a few texts at a time. The backward pass
    computes them again.

    Args:
        unit_pooled: scale sum_p a_p x_p to unit length first.
        at_once: elements of a block.
    """
    num_patches, num_texts = patches.shape[1], len(texts)
    columns = max(1, min(num_texts, at_once // num_patches))
    rows = max(1, at_once // (num_patches * columns))
    # Split, not sliced: the backward pass of a slice fills the whole with zeros.
    blocks = [
        [
            checkpoint(_block, x, y, unit_pooled, use_reentrant=False, preserve_rng_state=False)
            for y in texts.split(columns)
        ]
        for x in patches.split(rows)
    ]
    return torch.cat([torch.cat(row, dim=1) for row in blocks])


def _block(patches: Tensor, texts: Tensor, unit_pooled: bool) -> Tensor:
    with no_autocast(patches):
        similar = patches @ texts.T  # [b, P, n]
        weights = similar.softmax(dim=1)
        if not unit_pooled:  # <sum_p a_p x_p, y> is sum_p a_p s_p, so no pooling
            return (weights * similar).sum(dim=1)
        pooled = F.normalize(torch.einsum("bpn,bpd->bnd", weights, patches), dim=-1)
        return torch.einsum("bnd,nd->bn", pooled, texts)
