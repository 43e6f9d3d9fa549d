"""Frozen features, heads on patches, and the training images that the penalty is chosen on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torchmetrics.classification import MulticlassJaccardIndex

import silc
from silc.distributed import World
from silc.errors import BadInput
from silc.eval.asked import Task
from silc.eval.datasets import ClassificationSet, Lazy, SegmentationSet, Source
from silc.probes.config import ProbeConfig
from silc.probes.tasks import Neighbours, Segmentation, held_back


def images(count: int) -> list[Image.Image]:
    draw = np.random.default_rng(0)
    return [Image.fromarray(draw.integers(0, 256, (20, 24, 3), dtype=np.uint8)) for _ in range(count)]


@pytest.fixture
def run(finished: Callable[..., Path]) -> str:
    return str(finished("silc_c"))


def segmentation(run: str, data: SegmentationSet, **settings: float) -> Segmentation:
    source = Source("segmentation", "set", (), lambda: data, lambda: data)
    config = ProbeConfig(init=run, exif_orientation="ignore", **settings)
    return Segmentation(config, Task("linear_probe_segmentation", source), World())


def test_pooled_features_are_the_models(run: str) -> None:
    data = ClassificationSet("set", "train", list("abc"), images(5), [0, 1, 2, 0, 1])
    task = Task("knn_classification", Source("classification", "set", (), lambda: data, lambda: data))
    features, labels = Neighbours(ProbeConfig(init=run, feature_batch=2), task, World()).pooled(data)
    model = silc.load(run, device="cpu")
    assert labels.tolist() == [0, 1, 2, 0, 1]
    assert torch.allclose(features, model.encode_pooled(model.pixels(data.images)), atol=1e-6)


@pytest.mark.parametrize("keep", [0.0, 1.0, 1200.0, 1e6])
def test_patches_are_the_towers_whatever_is_kept(run: str, keep: float) -> None:
    pictures = images(4)
    truths = [np.full((20, 24), i, np.uint8) for i in range(4)]
    data = SegmentationSet("set", list("abcd"), list("0123"), pictures, truths)
    probed = segmentation(run, data, feature_cache_gb=keep / 1e9)
    for rows in ([2, 0], [0, 3], [3, 2, 1, 0]):
        features, labels = probed.batch(rows)
        assert torch.allclose(features, probed.model.features([pictures[row] for row in rows]).patches, atol=1e-6)
        assert labels.shape == (len(rows), 16, 16)
        assert labels[:, 0, 0].tolist() == rows
    each = 2 * 2 * 32 * 4
    assert len(probed.kept) == min(4, keep // each)


def test_maps_are_read_when_their_image_is_learnt_from(run: str) -> None:
    """Another file, and not another content, makes another set: of large ones no pixel is read at the start."""
    opened = list[int]()

    def read(number: int) -> np.ndarray:
        opened.append(number)
        return np.full((20, 24), number, np.uint8)

    files = [Path(f"{number}.{end}") for number in range(4) for end in ("jpg", "png")]
    data = SegmentationSet("set", list("abcd"), list("0123"), images(4), Lazy(range(4), read), files=files)
    probed = segmentation(run, data)
    assert opened == []
    probed.batch([2])
    assert opened == [2]
    other = segmentation(run, replace(data, files=[*files[:-1], Path("4.png")]))
    assert other.checksums["model"] == probed.checksums["model"]
    assert other.checksums["files"] != probed.checksums["files"]


def test_labels_are_those_under_the_centres(run: str) -> None:
    truth = np.arange(20 * 24).reshape(20, 24) % 250
    data = SegmentationSet("set", [str(i) for i in range(250)], ["0"] * 2, images(2), [truth] * 2)
    _, labels = segmentation(run, data).batch([0])
    rows, columns = [int((i + 0.5) * 20 / 16) for i in range(16)], [int((i + 0.5) * 24 / 16) for i in range(16)]
    assert torch.equal(labels[0], torch.from_numpy(truth[rows][:, columns]))


def test_miou_is_torchmetrics(run: str) -> None:
    """At the size of each label map, of logits upsampled by torch."""
    draw = np.random.default_rng(1)
    truths = [draw.integers(0, 4, (20, 24)) for _ in range(5)]
    for truth in truths:
        truth[:3], truth[truth == 3] = 255, 2
    probed = segmentation(run, SegmentationSet("set", list("abc"), list("01234"), images(5), truths), feature_batch=2)
    heads = probed.heads((0.1, 0.1))
    peer = MulticlassJaccardIndex(3, average="macro", ignore_index=255)
    for row, truth in enumerate(truths):
        features, _ = probed.examples(probed.test, [row])
        logits = F.interpolate(heads.logits(1, features), truth.shape, mode="bilinear", align_corners=False)
        peer.update(logits.argmax(dim=1), torch.from_numpy(truth)[None])
    assert probed.evaluation(heads, 1, {}).record.metrics["miou"] == pytest.approx(peer.compute().item(), abs=1e-6)


NAMES = ["the class 'a'", "the class 'b'", "the class 'c'"]


def split(labels: list[int], share: float, seed: int = 0) -> torch.Tensor:
    config = ProbeConfig(held_back=share)
    return held_back(labels, NAMES, replace(config, train=replace(config.train, seed=seed)))


def test_each_class_is_held_back_in_part() -> None:
    labels = [0] * 10 + [1] * 2 + [2] * 40
    held = split(labels, 0.2)
    assert torch.bincount(torch.tensor(labels)[held], minlength=3).tolist() == [2, 1, 8]
    assert torch.equal(held, split(labels, 0.2))
    assert not torch.equal(held, split(labels, 0.2, seed=1))
    assert split([0, 0, 1, 1], 0.9).sum() == 2


def test_one_image_is_too_few() -> None:
    with pytest.raises(BadInput, match=r"^the class 'b' has one training image; it needs two, [^\n]*$"):
        split([0, 0, 1], 0.1)
    split([0, 0, 2, 2], 0.1)  # a class without images is a name to be confused with
