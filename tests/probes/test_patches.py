"""Frozen features, heads on patches, and the training images that the penalty is chosen on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn
from torchmetrics.classification import MulticlassJaccardIndex

import silc
from silc.distributed import World
from silc.errors import BadInput
from silc.eval.datasets import ClassificationSet, SegmentationSet
from silc.probes.config import ProbeConfig
from silc.probes.learner import Heads, Probe, held_back
from silc.probes.patches import Patches, Segmentation
from silc.probes.pooled import pooled
from silc.training.schedules import Rate


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


def test_labels_are_those_under_the_centres(model: silc.predict.Model) -> None:
    truth = np.arange(20 * 24).reshape(20, 24) % 250
    data = SegmentationSet("set", [str(i) for i in range(250)], ["0"], images(1), [truth])
    _, labels = Patches(model, data).batch([0])
    rows, columns = [int((i + 0.5) * 20 / 16) for i in range(16)], [int((i + 0.5) * 24 / 16) for i in range(16)]
    assert torch.equal(labels[0], torch.from_numpy(truth[rows][:, columns]))


def test_patches_go_through_torchs_batch_norm_and_convolution() -> None:
    """Losses, gradients and what scores: of a BatchNorm2d, a 1x1 Conv2d and torch's upsampling."""
    torch.manual_seed(0)
    patches = 3 + 2 * torch.randn(2, 3, 4, 5, dtype=torch.float64)
    labels = torch.randint(3, (2, 12, 16))
    labels[0, :4] = 255
    begin = torch.stack([torch.zeros(5), torch.ones(5)]).double()
    heads = Heads((0.1, 0.01), 3, begin.clone(), batch_norm=True, ignore=255)
    with torch.no_grad():
        for parameter in heads.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    shares = torch.tensor([[0.5, 0.5], [1.0, 0.0]], dtype=torch.float64)
    out = heads(patches, labels, shares)
    out.loss.backward()
    assert torch.equal(heads.running, begin)
    Probe(heads).after_step(out, Rate(0.0))
    for head, l2 in enumerate((0.1, 0.01)):
        norm, conv = nn.BatchNorm2d(5, affine=False).double(), nn.Conv2d(5, 3, 1).double()
        with torch.no_grad():
            conv.weight.copy_(heads.weight[head][:, :, None, None])
            conv.bias.copy_(heads.bias[head])
        logits = conv(norm(patches.movedim(-1, 1)))
        upsampled = F.interpolate(logits, (12, 16), mode="bilinear", align_corners=False)
        by_image = F.cross_entropy(upsampled, labels, ignore_index=255, reduction="none").flatten(1).mean(dim=1)
        ((by_image * shares[head]).sum() + l2 / 2 * conv.weight.square().sum()).backward()
        assert torch.allclose(heads.weight.grad[head], conv.weight.grad[:, :, 0, 0])
        assert torch.allclose(heads.bias.grad[head], conv.bias.grad)
        assert torch.allclose(heads.running, torch.stack([norm.running_mean, norm.running_var]))
        norm.eval()
        assert torch.allclose(heads.logits(head, patches), conv(norm(patches.movedim(-1, 1))))


def test_miou_is_torchmetrics(model: silc.predict.Model) -> None:
    """At the size of each label map, of logits upsampled by torch."""
    draw = np.random.default_rng(1)
    truths = [draw.integers(0, 4, (20, 24)) for _ in range(5)]
    for truth in truths:
        truth[:3], truth[truth == 3] = 255, 2
    data = SegmentationSet("set", ["a", "b", "c"], list("01234"), images(5), truths, files=[])
    config = ProbeConfig(feature_batch=2)
    probe = Segmentation(config, model, data, data, World())
    heads = probe.heads((0.1, 0.1))
    peer = MulticlassJaccardIndex(3, average="macro", ignore_index=255)
    for row, truth in enumerate(truths):
        features, _ = probe.train.examples([row])
        logits = F.interpolate(heads.logits(1, features), truth.shape, mode="bilinear", align_corners=False)
        peer.update(logits.argmax(dim=1), torch.from_numpy(truth)[None])
    assert probe.evaluation(heads, 1, {}).record.metrics["miou"] == pytest.approx(peer.compute().item(), abs=1e-6)


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
