"""Frozen features, and the training images that the penalty is chosen on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import silc
from silc.eval.datasets import ClassificationSet, SegmentationSet
from silc.probes.data import Patches, held_back, nearest, pooled
from silc.types import BadInput


def images(count: int) -> list[Image.Image]:
    draw = np.random.default_rng(0)
    return [Image.fromarray(draw.integers(0, 256, (20, 24, 3), dtype=np.uint8)) for _ in range(count)]


def labelled(labels: list[int], classes: int = 3) -> ClassificationSet:
    return ClassificationSet("set", "train", [f"class {i}" for i in range(classes)], images(len(labels)), labels)


@pytest.fixture
def model(finished: Callable[..., Path]) -> silc.predict.Model:
    return silc.load(finished("silc_c"), device="cpu")


def test_pooled_features_are_the_models(model: silc.predict.Model) -> None:
    data = labelled([0, 1, 2, 0, 1])
    features, labels = pooled(model, data, 2)
    assert labels.tolist() == [0, 1, 2, 0, 1]
    assert torch.allclose(features, model.encode_pooled(model.pixels(data.images)), atol=1e-6)


@pytest.mark.parametrize("keep", [0.0, 1.0, 600.0, 1e6])
def test_patches_are_the_towers_whatever_is_kept(model: silc.predict.Model, keep: float) -> None:
    pictures = images(4)
    truths = [np.full((20, 24), i, np.uint8) for i in range(4)]
    patches = Patches(model, SegmentationSet("set", list("abcd"), list("0123"), pictures, truths), keep)
    for rows in ([2, 0], [0, 3], [3, 2, 1, 0]):
        features, labels = patches.batch(rows)
        assert torch.allclose(features, model.features([pictures[row] for row in rows]).patches, atol=1e-6)
        assert labels.shape == (len(rows), 16, 16)
        assert labels[:, 0, 0].tolist() == rows
    each = 2 * 2 * 32 * 4
    assert len(patches.kept) == min(4, keep // each)


def test_labels_are_those_under_the_centres() -> None:
    truth = np.arange(24).reshape(4, 6)
    assert nearest(truth, 2).tolist() == [[7, 10], [19, 22]]
    assert nearest(truth, 6)[:, 0].tolist() == [0, 6, 6, 12, 18, 18]


NAMES = ["the class 'a'", "the class 'b'", "the class 'c'"]


def test_each_class_is_held_back_in_part() -> None:
    labels = [0] * 10 + [1] * 2 + [2] * 40
    held = held_back(labels, NAMES, 0.2, seed=0)
    assert torch.bincount(torch.tensor(labels)[held], minlength=3).tolist() == [2, 1, 8]
    assert torch.equal(held, held_back(labels, NAMES, 0.2, seed=0))
    assert not torch.equal(held, held_back(labels, NAMES, 0.2, seed=1))
    assert held_back([0, 0, 1, 1], NAMES, 0.9, seed=0).sum() == 2


def test_one_image_is_too_few() -> None:
    with pytest.raises(BadInput, match=r"^the class 'b' has one training image; needed are two, [^\n]*$"):
        held_back([0, 0, 1], NAMES, 0.1, 0)
    held_back([0, 0, 2, 2], NAMES, 0.1, 0)  # a class without images is a name to be confused with
