"""Boxes as numbers: forms, overlap. A box is (centre x, centre y, width, height) or the corners (x0, y0, x1, y1)."""

from __future__ import annotations

import torch
from torch import Tensor

EPSILON = 1e-6
"""Added to an area before a division by it, as in scenic."""


def corners(boxes: Tensor) -> Tensor:
    """Corners [..., 4] of centres and sizes."""
    centre, half = boxes[..., :2], boxes[..., 2:] / 2
    return torch.cat([centre - half, centre + half], dim=-1)


def area(boxes: Tensor) -> Tensor:
    """Area [...] of corners [..., 4]; an inverted box has area 0."""
    return (boxes[..., 2:] - boxes[..., :2]).clamp(min=0).prod(dim=-1)


def overlaps(one: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    """IoU and union [...] of corners [..., 4] that broadcast against each other."""
    low, high = torch.maximum(one[..., :2], other[..., :2]), torch.minimum(one[..., 2:], other[..., 2:])
    shared = (high - low).clamp(min=0).prod(dim=-1)
    union = area(one) + area(other) - shared
    return shared / (union + EPSILON), union


def generalized_iou(one: Tensor, other: Tensor) -> Tensor:
    """IoU minus the uncovered fraction of the smallest box around both: [...], from -1 to 1 (Rezatofighi 2019)."""
    iou, union = overlaps(one, other)
    low, high = torch.minimum(one[..., :2], other[..., :2]), torch.maximum(one[..., 2:], other[..., 2:])
    around = (high - low).clamp(min=0).prod(dim=-1)
    return iou - (around - union) / (around + EPSILON)
