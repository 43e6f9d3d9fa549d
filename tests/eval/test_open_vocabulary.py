"""Segmentation as CAT-Seg's tables have it: what is asked for by name, scored by detectron2's rule."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from silc.errors import BadInput
from silc.eval.asked import asked_for, select
from silc.eval.config import EvalConfig
from silc.eval.datasets import SegmentationSet
from silc.eval.prompts import class_names
from silc.eval.score_map import Box, ScoreMap, Window
from silc.eval.segment import OpenVocabularySegmentation, ZeroShotSegmentation
from silc.preprocess import Preprocess


class Fixed:
    """A predictor that says what it is told to, of any image."""

    name = "fixed"
    patch_size = 1
    preprocess = Preprocess(4)
    device = torch.device("cpu")
    record = {"decoder": "fixed", "protocol": "none"}  # noqa: RUF012
    rules: dict[str, object] = {}  # noqa: RUF012

    def __init__(self, labels: list[list[int]]) -> None:
        self.labels = torch.tensor(labels)

    def classes(self, names, embed):
        self.names = list(names)
        return torch.eye(len(names))

    def maps(self, images, classes):
        raise NotImplementedError

    def score_map(self, image, classes, name=""):
        high, wide = self.labels.shape
        patches = torch.nn.functional.one_hot(self.labels, len(classes)).permute(2, 0, 1).float()
        return ScoreMap([Window(Box(0, 0, high, wide), patches, high, wide)], high, wide)


def a_set(truth: list[list[int]], **more: object) -> SegmentationSet:
    from PIL import Image

    labels = np.array(truth, np.uint8)
    image = Image.new("RGB", labels.shape[::-1])
    return SegmentationSet("toy", ["a", "b", "c"], ["0"], [image], [labels], **more)


def test_a_class_that_is_absent_from_the_truth_is_left_out() -> None:
    """detectron2's mean is over a and b: 1/3 and 2/3; mmseg's counts the c that was predicted as 0."""
    data, predictor = a_set([[0, 0, 1, 1]]), Fixed([[0, 2, 1, 1]])
    theirs, ours = (
        kind("toy", data, EvalConfig())(predictor).record for kind in (OpenVocabularySegmentation, ZeroShotSegmentation)
    )
    assert theirs.metrics["miou"] == pytest.approx((1 / 2 + 1) / 2)
    assert ours.metrics["miou"] == pytest.approx((1 / 2 + 1 + 0) / 3)
    assert (theirs.task, theirs.protocol["absent_classes"]) == ("open_vocabulary_segmentation", "detectron2")


def test_a_background_is_what_is_usually_there() -> None:
    """The words for it are one class, whichever of them scores best."""
    data = a_set([[0, 1, 1, 2]], words=(), background_words=["sky", "grass"])
    predictor = Fixed([[1, 2, 2, 3]])
    record = OpenVocabularySegmentation("toy", data, EvalConfig())(predictor).record
    assert set(predictor.names) == {"sky", "grass", "b", "c"}
    assert record.protocol["background_names"] == 2


def test_names_are_catsegs_unless_others_are_asked_for() -> None:
    """Pascal Context's fiftieth class is `table` in mmsegmentation and `diningtable` in CAT-Seg."""
    data = replace(a_set([[0]]), classes=class_names("pascal_context_59"), published="pascal_context_59")
    for kind, names, called, said in (
        (OpenVocabularySegmentation, "", "diningtable", None),
        (OpenVocabularySegmentation, "mmseg", "table", "mmseg"),
        (ZeroShotSegmentation, "", "table", None),
        (ZeroShotSegmentation, "mmseg", "table", None),
        (ZeroShotSegmentation, "catseg", "diningtable", "catseg"),
    ):
        scored = kind("toy", data, EvalConfig(names=names))
        assert scored.wording.words[49] == called
        assert scored.protocol(Fixed([[0]])).get("names") == said
    assert OpenVocabularySegmentation("toy", a_set([[0]]), EvalConfig()).wording.words == ["a", "b", "c"]


def test_it_is_scored_where_it_is_named_alone(tmp_path: Path) -> None:
    folder = tmp_path / "segmentation" / "own"
    for part in ("images", "labels"):
        (folder / part).mkdir(parents=True)
    for asked, names in (
        ("all", ["own-zs-seg"]),
        ("own-*", ["own-zs-seg"]),
        ("*-ov-seg", ["own-ov-seg"]),
        ("own-ov-seg,all", ["own-zs-seg", "own-ov-seg"]),
    ):
        found = asked_for(EvalConfig(root=str(tmp_path), tasks=asked))
        assert [task.name for task in found] == names
    with pytest.raises(BadInput, match="no task 'own-o'"):
        select("own-o", ["own-ov-seg"], {"own-ov-seg": "ov-seg"})
