"""Intervals are those of the bootstrap over images, and differences are paired."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from silc.eval import metrics
from silc.eval.bootstrap import RESAMPLES, Ratios, difference, interval


def draws(num_images: int) -> np.ndarray:
    """The images of each draw [RESAMPLES, N], as the module says that it takes them."""
    generator = torch.Generator().manual_seed(0)
    return torch.randint(num_images, (RESAMPLES, num_images), generator=generator).numpy()


def test_the_interval_of_an_accuracy_is_scipys() -> None:
    right = torch.rand(300) < 0.3
    ours = interval(Ratios.of_images(right).resampled())
    theirs = stats.bootstrap((right.numpy(),), np.mean, method="percentile", n_resamples=5000, rng=0)
    assert ours == pytest.approx(theirs.confidence_interval, abs=0.01)


@pytest.mark.parametrize("absent", ["mmseg", "detectron2"])
@pytest.mark.parametrize("num_images", [7, 40])
def test_segmentation_draw_by_draw_equals_summed_confusions(absent: metrics.Absent, num_images: int) -> None:
    counts = torch.randint(0, 9, (num_images, 5, 5)) * (torch.rand(num_images, 5, 5) < 0.2)
    counts[:, 0, 0] += 1
    rows = torch.cat([metrics.pixel_counts(own, image) for image, own in reversed(list(enumerate(counts)))])
    ratios = metrics.segmentation_ratios(rows, num_images, absent)
    whole = metrics.segmentation_scores(counts.sum(0), absent)
    for name, ratio in ratios.items():
        assert ratio.score() == pytest.approx(whole[name], abs=1e-12)
        expected = [metrics.segmentation_scores(counts[drawn].sum(0), absent)[name] for drawn in draws(num_images)[:50]]
        assert ratio.resampled()[:50].tolist() == pytest.approx(expected, abs=1e-12)


def test_class_mean_draw_by_draw_equals_a_loop() -> None:
    labels, ranks = torch.randint(0, 6, (30,)), torch.randint(0, 3, (30,))
    ratio = metrics.accuracy_ratios(ranks, labels, 6)["mean_per_class_recall"]
    for drawn, ours in zip(draws(30)[:40], ratio.resampled(), strict=False):
        own, right = labels.numpy()[drawn], (ranks == 0).numpy()[drawn]
        assert ours.item() == pytest.approx(np.mean([right[own == c].mean() for c in np.unique(own)]), abs=1e-12)


def test_a_text_counts_with_its_image() -> None:
    owner = torch.tensor([0, 0, 1, 2, 2, 2])
    by_text, by_image = torch.tensor([0, 3, 0, 1, 0, 2]), torch.tensor([0, 4, 1])
    ratio = metrics.recall_ratios(by_text, by_image, owner)["image_retrieval_recall@1"]
    for drawn, ours in zip(draws(3)[:40], ratio.resampled(), strict=False):
        hits = [by_text[owner == image] == 0 for image in drawn.tolist()]
        assert ours.item() == pytest.approx(torch.cat(hits).double().mean().item(), abs=1e-12)


def test_many_images_are_drawn_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    ratio = Ratios.of_images(torch.rand(50))
    whole = ratio.resampled()
    monkeypatch.setattr("silc.eval.bootstrap.DRAWN", 170)
    assert torch.equal(ratio.resampled(), whole)


def test_a_difference_is_paired() -> None:
    """Two models that differ in one image of a hundred: surely different, though their intervals overlap widely."""
    right = torch.arange(100) % 2 == 0
    better = right | (torch.arange(100) % 10 == 1)
    a, b = (Ratios.of_images(one).resampled().tolist() for one in (better, right))
    assert interval(b)[1] > interval(a)[0]
    low, high = difference(a, b) or (0.0, 0.0)
    assert 0 < low < 0.1 < high < 0.2
    assert difference(a, []) is None
