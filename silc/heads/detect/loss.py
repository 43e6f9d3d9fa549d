"""The loss of OWL-ViT on matched predictions: focal loss of the queries, L1 and gIoU of the boxes.

For each image, the term of the classes is divided by the number of its objects' names, the other terms by the number
of its objects. Then the mean over images is taken (scenic's `per_example`). As in scenic, the matching cost uses L1 of
centres and sizes, and the loss uses L1 of corners.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.nn.functional as F

from silc.heads.detect.boxes import corners, generalized_iou
from silc.heads.detect.config import LossConfig
from silc.heads.detect.matching import match

if TYPE_CHECKING:
    from torch import Tensor

    from silc.heads.detect.head import Found


class Objects(NamedTuple):
    """The truth of one image: M objects."""

    labels: Tensor  # [M, Q], 1 where a query names the object
    boxes: Tensor  # [M, 4], centres and sizes as fractions of the square image's side


class Loss(NamedTuple):
    """The loss of a batch."""

    total: Tensor  # [] with gradient
    parts: Mapping[str, Tensor]
    """Its terms, detached and weighted: class, l1, giou, and objectness if it is learnt."""


def focal(logits: Tensor, targets: Tensor, weights: LossConfig) -> Tensor:
    """Sigmoid focal loss, elementwise (Lin 2017)."""
    p = logits.sigmoid()
    right = p * targets + (1 - p) * (1 - targets)
    share = weights.alpha * targets + (1 - weights.alpha) * (1 - targets)
    return share * (1 - right) ** weights.gamma * F.binary_cross_entropy_with_logits(logits, targets, reduction="none")


def detection_loss(
    found: Found, truth: Sequence[Objects], asked: Tensor | None = None, weights: LossConfig | None = None
) -> Loss:
    """The loss of B images.

    Args:
        found: outputs of the heads; the loss is computed in float32.
        truth: the objects of each image.
        asked: bool [B, Q] or [B, N, Q], queries that count for an image or a patch; None: all. A query that names the
            matched object of a patch always counts there.
    """
    weights = weights or LossConfig()
    sums: dict[str, list[Tensor]] = {"class": [], "l1": [], "giou": [], "objectness": []}
    for row, (labels, true_boxes) in enumerate(truth):
        logits, boxes = found.logits[row].float(), found.boxes[row].float()
        at, of = match(logits.detach(), boxes.detach(), labels, true_boxes, weights)
        targets = torch.zeros_like(logits).index_copy(0, at, labels[of].to(logits.dtype))
        each = focal(logits, targets, weights)
        each = each if asked is None else each * (asked[row] | (targets > 0))
        own, true = corners(boxes[at]), corners(true_boxes[of].to(boxes.dtype))
        count = max(1, len(true_boxes))
        sums["class"].append(weights.classes * each.sum() / labels.sum().clamp(min=1))
        sums["l1"].append(weights.l1 * (own - true).abs().sum() / count)
        sums["giou"].append(weights.giou * (1 - generalized_iou(own, true)).sum() / count)
        if found.objectness is not None:
            is_object = torch.zeros_like(found.objectness[row]).index_fill(0, at, 1.0).float()
            sums["objectness"].append(focal(found.objectness[row].float(), is_object, weights).sum() / count)
    parts = {name: torch.stack(each).mean() for name, each in sums.items() if each}
    total = torch.stack(list(parts.values())).sum()
    return Loss(total, {f"loss/{name}": part.detach() for name, part in parts.items()})
