"""Average precision against pycocotools and lvis-api, whose figures the fixtures hold."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from silc.eval.average_precision import Detection, average_precision
from silc.eval.datasets import Box, DetectionSet
from silc.eval.layouts.boxes import parsed

pytest.importorskip("faster_coco_eval")


def case(silc_data: Path, name: str) -> tuple[DetectionSet, list[list[Detection]], dict[str, Any]]:
    """Truth, detections by image, and what the reference made of them."""
    truth, found, wanted = (
        json.loads((silc_data / "oracles" / "owl" / f"{name}_{part}.json").read_text())
        for part in ("gt", "dets", "expected")
    )
    data, broken = parsed(name, truth, name)
    assert not broken.counts
    labels = {number: label for label, number in enumerate(data.category_ids)}
    by_image: dict[int, list[Detection]] = {number: [] for number in data.ids}
    for one in found:
        by_image[one["image_id"]].append(Detection(labels[one["category_id"]], *one["bbox"], one["score"]))
    return data, list(by_image.values()), wanted


def test_coco_is_pycocotools(silc_data: Path) -> None:
    data, found, wanted = case(silc_data, "coco")
    ours = average_precision(data, found)
    theirs = {name.lower(): value for name, value in wanted["stats"].items()}
    assert len(theirs) == 12
    assert dict(ours.metrics) == pytest.approx(theirs, abs=1e-9)
    names = dict(zip(map(str, data.category_ids), data.classes, strict=True))
    each = {names[number]: value for number, value in wanted["per_category_AP"].items() if value >= 0}
    assert dict(ours.by_class) == pytest.approx(each, abs=1e-9)


@pytest.mark.parametrize("most", [300, 100])
def test_lvis_is_lvis_api(silc_data: Path, most: int) -> None:
    """One image has more than 300 detections: of those the best are taken before they are matched."""
    data, found, wanted = case(silc_data, "lvis")
    assert max(map(len, found)) > 300
    ours = average_precision(data, found, most)
    sizes = {"s": "small", "m": "medium", "l": "large"}

    def named(theirs: str) -> str:
        kind, _, limit = theirs.partition("@")
        return f"{kind[:2].lower()}_{sizes[kind[2]]}" if kind[2:] in sizes else kind.lower() + f"_{limit}" * bool(limit)

    theirs = {named(name): value for name, value in wanted[f"max_dets_{most}"].items()}
    assert len(theirs) == 13
    assert {"apr", "apc", "apf"} <= theirs.keys()
    assert dict(ours.metrics) == pytest.approx(theirs, abs=1e-9)


def test_an_image_without_truth_has_false_boxes_where_a_class_is_known_to_be_absent() -> None:
    """Of LVIS: the box of a class that the image lists as absent is wrong, any other box there is not looked at."""
    truth = [[Box(0, 0, 0, 10, 10, 100), Box(1, 20, 20, 10, 10, 100)], []]
    data = DetectionSet(
        *("lvis", ["a", "b"], [1, 2], [1, 2], (), [(40, 40), (40, 40)], truth),
        frequency=["f", "f"],
        absent=[frozenset(), frozenset({0})],
        partial=[frozenset(), frozenset()],
    )
    right = [Detection(0, 0, 0, 10, 10, 0.5), Detection(1, 20, 20, 10, 10, 0.5)]
    assert dict(average_precision(data, [right, []]).by_class) == {"a": 1.0, "b": 1.0}
    elsewhere = [Detection(label, 0, 0, 10, 10, 0.9) for label in (0, 1)]
    found = average_precision(data, [right, elsewhere])
    assert dict(found.by_class) == pytest.approx({"a": 0.5, "b": 1.0})  # the box of `a` is the second of two
    assert found.metrics["ap50"] == pytest.approx(0.75)


def test_of_a_class_coco_scores_the_best_hundred_of_an_image(silc_data: Path) -> None:
    """More than 300 boxes of an image change nothing unless they are among its class's best 100."""
    data, found, wanted = case(silc_data, "coco")
    label, least = data.objects[0][0].label, min(one.score for own in found for one in own)
    many = [Detection(label, place % 7, place % 5, 3, 3, least / 2) for place in range(400)]
    kept = 100 - sum(one.label == label for one in found[0])
    ours = average_precision(data, [[*found[0], *many], *found[1:]])
    assert dict(ours.metrics) == dict(average_precision(data, [[*found[0], *many[:kept]], *found[1:]]).metrics)
    sure = [one._replace(score=1.0) for one in many]
    assert average_precision(data, [[*found[0], *sure], *found[1:]]).metrics["ap"] < wanted["stats"]["AP"]


def test_nothing_found_is_worth_nothing(silc_data: Path) -> None:
    data, found, _ = case(silc_data, "coco")
    assert set(average_precision(data, [[] for _ in found]).metrics.values()) == {0.0}
