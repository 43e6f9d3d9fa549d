"""Matching of patches to objects: the assignment with the least cost, for each image (DETR, OWL-ViT)."""

from __future__ import annotations

import torch
from torch import Tensor

from silc.extras import needs
from silc.heads.detect.boxes import corners, generalized_iou
from silc.heads.detect.config import LossConfig

EPSILON = 1e-8
"""Added to probabilities before their logarithm, as in scenic's cost; the loss's `focal` computes from logits."""


def cost(logits: Tensor, boxes: Tensor, labels: Tensor, truth: Tensor, weights: LossConfig) -> Tensor:
    """Cost [N, M] of matching each prediction with each object.

    Args:
        logits: [N, Q] of one image.
        boxes: [N, 4], centres and sizes.
        labels: [M, Q], 1 where a query names an object; an object may have several names.
        truth: [M, 4], centres and sizes.
    """
    p, alpha, gamma = logits.sigmoid(), weights.alpha, weights.gamma
    present = alpha * (1 - p) ** gamma * -torch.log(p + EPSILON)
    absent = (1 - alpha) * p**gamma * -torch.log(1 - p + EPSILON)
    classes = (present - absent) @ labels.T.to(logits.dtype)
    l1 = (boxes[:, None] - truth[None]).abs().sum(dim=-1)
    giou = generalized_iou(corners(boxes)[:, None], corners(truth)[None])
    return weights.classes * classes + weights.l1 * l1 - weights.giou * giou


@torch.no_grad()
def match(logits: Tensor, boxes: Tensor, labels: Tensor, truth: Tensor, weights: LossConfig) -> tuple[Tensor, Tensor]:
    """Matched predictions and objects, int64 [K] each, K = min(N, M), with the least total cost.

    Arguments are those of `cost`. If an image has more objects than patches, some objects stay unmatched.

    Raises:
        BadInput: scipy is not installed.
    """
    if not len(truth):
        return (torch.empty(0, dtype=torch.int64, device=boxes.device),) * 2
    optimize = needs("matching boxes", "scipy.optimize", "detect")
    costs = cost(logits.float(), boxes.float(), labels, truth.float(), weights)
    rows, columns = optimize.linear_sum_assignment(costs.nan_to_num(nan=1e6, posinf=1e6, neginf=-1e6).cpu().numpy())
    return torch.as_tensor(rows, device=boxes.device), torch.as_tensor(columns, device=boxes.device)
