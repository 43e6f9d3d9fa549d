"""Parts of TCL's loss besides the two image-text losses: hard masks with a gradient, pooling within masks, and terms
that keep masks small and smooth."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

if TYPE_CHECKING:
    from torch import Tensor

    from silc.distributed import World

EPS = 1e-6
"""Added to the area of a mask that may be empty."""


def hard_mask(logits: Tensor, uniform: Tensor, temperature: float) -> Tensor:
    """Masks of zeros and ones from logits with logistic noise; the gradient is the soft mask's (straight through).

    Args:
        logits: [...].
        uniform: numbers in [0, 1) of the same shape, from which the noise is made.
        temperature: temperature of the sigmoid.
    """
    soft = torch.sigmoid((logits + torch.logit(uniform, eps=torch.finfo(uniform.dtype).tiny)) / temperature)
    return (soft > 0.5).to(soft.dtype) - soft.detach() + soft


def pooled_within(features: Tensor, masks: Tensor) -> Tensor:
    """Mean features [B, N, D] of an image's features [B, D, h, w] within each of its masks [B, N, h, w]."""
    weights = masks / (masks.sum(dim=(2, 3), keepdim=True) + EPS)
    return torch.einsum("bdhw,bnhw->bnd", features, weights)


def area_loss(masks: Tensor, prior: float, world: World) -> Tensor:
    """Distance [] between the mean of all masks of the global batch and `prior`, the fraction they should cover."""
    own = masks.mean()
    return (own - own.detach() + world.mean(own) - prior).abs()


def roughness(x: Tensor) -> Tensor:
    """Mean absolute difference of neighbours in a row and in a column of maps [B, C, h, w], []."""
    across = (x[..., :, 1:] - x[..., :, :-1]).abs().mean()
    return across + (x[..., 1:, :] - x[..., :-1, :]).abs().mean()


def enlarged(masks: Tensor, height: int, width: int) -> Tensor:
    """Masks [B, C, height, width] from masks [B, C, h, w], by nearest neighbour."""
    return F.interpolate(masks, (height, width), mode="nearest")
