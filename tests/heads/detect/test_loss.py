"""Matching and loss against scenic's numbers, and against loops in float64.

Not compared, as this code has none of it: the fixture's `global` (terms divided over the batch), `no_focal`, and the
accuracy of classes, a figure of scenic's logs.
"""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from silc.heads.detect.boxes import corners, generalized_iou, overlaps
from silc.heads.detect.config import LossConfig
from silc.heads.detect.head import Found
from silc.heads.detect.loss import Objects, detection_loss
from silc.heads.detect.matching import cost, match
from tests.heads.detect.test_head import fixture

VARIANTS = {"per_example": LossConfig(), "weights_2_5_2": LossConfig(2.0, 5.0, 2.0)}


def scenic(silc_data: Path) -> tuple[dict[str, Tensor], list[Objects]]:
    """The fixture, and its truth without padding."""
    arrays = fixture(silc_data, "scenic_loss")
    truth = [
        Objects(labels[:num], boxes[:num])
        for labels, boxes, num in zip(arrays["labels"], arrays["boxes"], arrays["n_boxes"].tolist(), strict=True)
    ]
    return arrays, truth


def test_costs_and_matches_are_scenics(silc_data: Path) -> None:
    arrays, truth = scenic(silc_data)
    counts = arrays["n_boxes"].tolist()
    assert 0 in counts
    assert max(counts) > 2
    for variant, name in ((LossConfig(), "cost"), (LossConfig(2.0, 5.0, 2.0), "weights_2_5_2/cost")):
        for row, (labels, boxes) in enumerate(truth):
            ours = cost(arrays["pred_logits"][row], arrays["pred_boxes"][row], labels, boxes, variant)
            torch.testing.assert_close(ours, arrays[name][row][:, : len(boxes)], atol=1e-5, rtol=1e-5)
    for row, (labels, boxes) in enumerate(truth):
        at, of = match(arrays["pred_logits"][row], arrays["pred_boxes"][row], labels, boxes, LossConfig())
        theirs = {(p, t) for p, t in arrays["matches"][row].T.tolist() if t < len(boxes)}
        assert set(zip(at.tolist(), of.tolist(), strict=True)) == theirs


@pytest.mark.parametrize("variant", VARIANTS)
def test_losses_and_gradients_are_scenics(silc_data: Path, variant: str) -> None:
    arrays, truth = scenic(silc_data)
    logits, boxes = arrays["pred_logits"].requires_grad_(), arrays["pred_boxes"].requires_grad_()
    asked = torch.arange(logits.shape[-1]).expand(len(truth), -1) > 0  # column 0 is its padding
    loss = detection_loss(Found(logits, boxes, None), truth, asked, VARIANTS[variant])
    for part, name in (("class", "loss_class_weighted"), ("l1", "loss_bbox"), ("giou", "loss_giou")):
        assert loss.parts[f"loss/{part}"].item() == pytest.approx(float(arrays[f"{variant}/{name}"]), rel=1e-5), part
    assert loss.total.item() == pytest.approx(float(arrays[f"{variant}/total"]), rel=1e-5)
    loss.total.backward()
    torch.testing.assert_close(logits.grad, arrays[f"{variant}/grad_logits"], atol=1e-6, rtol=1e-4)
    torch.testing.assert_close(boxes.grad, arrays[f"{variant}/grad_boxes"], atol=1e-5, rtol=1e-4)


def test_rows_that_are_no_images_are_left_out(silc_data: Path) -> None:
    """scenic fills its batches and masks what is none (`batch_mask`), still dividing by all rows; ours have images."""
    arrays, truth = scenic(silc_data)
    there = int(arrays["per_example_mask/batch_mask"].sum())
    assert there == len(truth) - 1
    logits, boxes = arrays["pred_logits"][:there], arrays["pred_boxes"][:there]
    asked = torch.arange(logits.shape[-1]).expand(there, -1) > 0
    loss = detection_loss(Found(logits, boxes, None), truth[:there], asked)
    share = there / len(truth)
    assert share * loss.total.item() == pytest.approx(float(arrays["per_example_mask/total"]), rel=1e-5)


def by_loop(logits: Tensor, boxes: Tensor, truth: Objects, asked: Tensor, weights: LossConfig) -> Tensor:
    """The loss of one image, float64, written from the papers: the assignment by trying all of them."""
    n, m = len(logits), len(truth.boxes)

    def focal_one(logit: Tensor, target: float) -> Tensor:
        p = torch.sigmoid(logit)
        if target:
            return -weights.alpha * (1 - p) ** weights.gamma * torch.log(p)
        return -(1 - weights.alpha) * p**weights.gamma * torch.log(1 - p)

    def giou(one: Tensor, other: Tensor) -> Tensor:
        (x0, y0, x1, y1), (u0, v0, u1, v1) = corners(one), corners(other)
        zero = torch.zeros((), dtype=torch.float64)
        inside = torch.maximum(zero, torch.minimum(x1, u1) - torch.maximum(x0, u0)) * torch.maximum(
            zero, torch.minimum(y1, v1) - torch.maximum(y0, v0)
        )
        union = (x1 - x0) * (y1 - y0) + (u1 - u0) * (v1 - v0) - inside
        around = (torch.maximum(x1, u1) - torch.minimum(x0, u0)) * (torch.maximum(y1, v1) - torch.minimum(y0, v0))
        return inside / union - (around - union) / around

    @torch.no_grad()
    def pair_cost(i: int, j: int) -> float:
        named = [q for q in range(logits.shape[1]) if truth.labels[j, q]]
        classes = sum(float(focal_one(logits[i, q], 1) - focal_one(logits[i, q], 0)) for q in named)
        l1 = float((boxes[i] - truth.boxes[j]).abs().sum())
        return weights.classes * classes + weights.l1 * l1 - weights.giou * float(giou(boxes[i], truth.boxes[j]))

    best = min(itertools.permutations(range(n), m), key=lambda rows: sum(pair_cost(i, j) for j, i in enumerate(rows)))
    total, names = torch.zeros((), dtype=torch.float64), max(1, int(truth.labels.sum()))
    for i, q in itertools.product(range(n), range(logits.shape[1])):
        target = float(truth.labels[best.index(i), q]) if i in best else 0.0
        if asked[q] or target:
            total = total + weights.classes * focal_one(logits[i, q], target) / names
    for j, i in enumerate(best):
        total = total + weights.l1 * (corners(boxes[i]) - corners(truth.boxes[j])).abs().sum() / m
        total = total + weights.giou * (1 - giou(boxes[i], truth.boxes[j])) / m
    return total


def random_case(objects: list[int], n: int = 5, q: int = 4) -> tuple[Tensor, Tensor, list[Objects], Tensor]:
    generator = torch.Generator().manual_seed(3)

    def draw(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator, dtype=torch.float64)

    truth = []
    for m in objects:
        labels = torch.zeros(m, q, dtype=torch.float64)
        for row in range(m):
            labels[row, torch.randperm(q, generator=generator)[: 1 + row % 2]] = 1.0
        truth.append(Objects(labels, draw(m, 4) * 0.4 + 0.2))
    return 4 * draw(len(objects), n, q) - 2, draw(len(objects), n, 4) * 0.4 + 0.2, truth, draw(len(objects), q) > 0.2


def test_the_loss_is_that_of_a_loop_in_float64() -> None:
    logits, boxes, truth, asked = random_case([3, 0, 2])
    weights = LossConfig(1.5, 5.0, 2.0)
    ours = logits.clone().requires_grad_(), boxes.clone().requires_grad_()
    theirs = logits.clone().requires_grad_(), boxes.clone().requires_grad_()
    loss = detection_loss(Found(*ours, None), truth, asked, weights).total
    loops = [by_loop(*(x[i] for x in theirs), truth[i], asked[i], weights) for i in range(len(truth))]
    wanted = torch.stack(loops).mean()
    assert loss.item() == pytest.approx(wanted.item(), rel=1e-4)  # ours is computed in float32, IoU with its epsilon
    loss.backward()
    wanted.backward()
    for own, other in zip(ours, theirs, strict=True):
        assert other.grad is not None
        torch.testing.assert_close(own.grad, other.grad, atol=1e-4, rtol=1e-3)


def test_a_name_counts_at_the_patches_that_know_it_and_at_its_own_object() -> None:
    """What a patch is not asked has no gradient there; the patch that an object has learns its name all the same."""
    logits, boxes, truth, _ = random_case([2])
    logits.requires_grad_()
    asked = torch.zeros(1, 5, 4, dtype=torch.bool)
    asked[0, :, 0] = True
    detection_loss(Found(logits, boxes, None), truth, asked).total.backward()
    at, of = match(logits[0].detach(), boxes[0], *truth[0], LossConfig())
    named = torch.zeros(5, 4, dtype=torch.bool)
    named[at] = truth[0].labels[of] > 0
    assert logits.grad is not None
    assert ((logits.grad[0] != 0) == (asked[0] | named)).all()
    assert (named & ~asked[0]).any()


def test_forms_of_boxes_and_overlaps() -> None:
    boxes = torch.tensor([[0.5, 0.5, 0.2, 0.4], [0.1, 0.9, 0.0, 0.2]])
    torch.testing.assert_close(corners(boxes), torch.tensor([[0.4, 0.3, 0.6, 0.7], [0.1, 0.8, 0.1, 1.0]]))
    left, right = torch.tensor([0.0, 0.0, 2.0, 2.0]), torch.tensor([1.0, 1.0, 3.0, 3.0])
    assert overlaps(left, right)[0].item() == pytest.approx(1 / 7, abs=1e-6)
    assert generalized_iou(left, right).item() == pytest.approx(1 / 7 - 2 / 9, abs=1e-6)
    assert generalized_iou(left, left).item() == pytest.approx(1, abs=1e-5)
    assert generalized_iou(left, left + 100).item() < -0.99


def test_more_objects_than_patches_and_none() -> None:
    logits, boxes, truth, _ = random_case([3], n=2)
    at, of = match(logits[0], boxes[0], *truth[0], LossConfig())
    assert sorted(at.tolist()) == [0, 1]
    assert len(set(of.tolist())) == 2
    nothing = Objects(truth[0].labels[:0], truth[0].boxes[:0])
    loss = detection_loss(Found(logits, boxes, None), [nothing])
    assert math.isfinite(loss.total)
    assert loss.parts["loss/l1"] == loss.parts["loss/giou"] == 0
    assert "loss/objectness" not in loss.parts
    with_objectness = detection_loss(Found(logits, boxes, logits[..., 0]), truth)
    assert with_objectness.parts["loss/objectness"] > 0
