"""Average precision of boxes by faster-coco-eval, counted as pycocotools and lvis-api do.

LVIS keeps the best 300 boxes of an image over all classes *before* matching. faster-coco-eval does not do this, so this
module does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from silc.extras import needs

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from silc.eval.datasets import DetectionSet

MOST = 300
"""Number of boxes per image that LVIS scores, over all classes."""
AREAS = {"small": 1, "medium": 2, "large": 3}
IOU50, IOU75 = 0, 5
FREQUENCIES = ("r", "c", "f")


class Detection(NamedTuple):
    """A box that was found, in pixels."""

    label: int
    x: float
    y: float
    width: float
    height: float
    score: float


class Precision(NamedTuple):
    """Average precision of the boxes on a data set."""

    metrics: Mapping[str, float]
    """COCO's twelve metrics, or LVIS's thirteen; a metric without any object is left out."""
    by_class: Mapping[str, float]
    """AP of each class that is in the truth."""


def average_precision(data: DetectionSet, found: Sequence[Sequence[Detection]], most: int = MOST) -> Precision:
    """Average precision of the detections in N images.

    Args:
        most: number of boxes per image that are scored, for LVIS's sets only.

    Raises:
        BadInput: faster-coco-eval is not installed.
    """
    library = needs("average precision", "faster_coco_eval", "detect")
    truth = library.COCO(_truth(data))
    lvis = bool(data.frequency)
    results = [
        {"image_id": image, "category_id": one.label + 1, "bbox": list(one[1:5]), "score": one.score}
        for image, own in enumerate(found)
        for one in (_best(own, most) if lvis else own)
    ]
    scorer = library.COCOeval_faster(truth, truth.loadRes(results), "bbox", lvis_style=lvis)
    if lvis:
        scorer.params.maxDets = [most]
    scorer.evaluate()
    scorer.accumulate()
    return _summary(data, scorer.eval["precision"], scorer.eval["recall"], scorer.params.maxDets)


def _truth(data: DetectionSet) -> dict[str, Any]:
    """The data set in COCO's form, with images numbered from 0 and classes from 1."""
    numbered = [(image, one) for image, own in enumerate(data.objects) for one in own]
    lists = {"neg_category_ids": data.absent, "not_exhaustive_category_ids": data.partial}
    return {
        "images": [
            {"id": image, "width": width, "height": height}
            | {key: [label + 1 for label in sorted(own[image])] for key, own in lists.items() if own}
            for image, (width, height) in enumerate(data.sizes)
        ],
        "annotations": [
            {
                "id": number,
                "image_id": image,
                "category_id": one.label + 1,
                "bbox": [one.x, one.y, one.width, one.height],
                "area": one.area,
                "iscrowd": int(one.crowd),
            }
            for number, (image, one) in enumerate(numbered, start=1)
        ],
        "categories": [
            {"id": label + 1, "name": name} | ({"frequency": data.frequency[label]} if data.frequency else {})
            for label, name in enumerate(data.classes)
        ],
    }


def _best(found: Sequence[Detection], most: int) -> list[Detection]:
    return sorted(found, key=lambda one: -one.score)[:most]


def _summary(
    data: DetectionSet, precision: NDArray[np.float64], recall: NDArray[np.float64], max_dets: Sequence[int]
) -> Precision:
    """Metrics: means of precision [T, R, K, A, M] and recall [T, K, A, M]; entries of -1 (no object) are left out."""
    metrics = {
        "ap": _mean(precision[:, :, :, 0, -1]),
        "ap50": _mean(precision[IOU50, :, :, 0, -1]),
        "ap75": _mean(precision[IOU75, :, :, 0, -1]),
        **{f"ap_{name}": _mean(precision[:, :, :, area, -1]) for name, area in AREAS.items()},
        **{f"ar_{most}": _mean(recall[:, :, 0, place]) for place, most in enumerate(max_dets)},
        **{f"ar_{name}": _mean(recall[:, :, area, -1]) for name, area in AREAS.items()},
    }
    for letter in FREQUENCIES if data.frequency else ():
        own = [label for label, frequency in enumerate(data.frequency) if frequency == letter]
        metrics[f"ap{letter}"] = _mean(precision[:, :, own, 0, -1])
    each = {name: _mean(precision[:, :, label, 0, -1]) for label, name in enumerate(data.classes)}
    return Precision(*({name: x for name, x in of.items() if x is not None} for of in (metrics, each)))


def _mean(values: NDArray[np.float64]) -> float | None:
    known = values[values > -1]
    return float(known.mean()) if known.size else None
