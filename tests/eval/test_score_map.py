"""Scores of an image's windows: averaged where they overlap, made where they are looked at."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F

from silc.eval.score_map import Box, ScoreMap, Window
from silc.eval.sliding import windows


def score_map(scores):
    """Scores [C, h, w] as a map of one window."""
    size = scores.shape[1:]
    return ScoreMap([Window(Box(0, 0, *size), scores, *size)], *size)


def test_stride_of_the_window_on_exact_multiples_is_block_wise():
    scores = torch.randn(5, 8, 12, generator=torch.Generator().manual_seed(0))
    boxes = windows(8, 12, 4, 4)
    assert len(boxes) == 6
    blocks = [Window(box, scores[:, box.y1 : box.y2, box.x1 : box.x2], 4, 4) for box in boxes]
    assert torch.equal(ScoreMap(blocks, 8, 12).whole(), scores)


def test_overlaps_are_averaged():
    boxes = windows(4, 6, 4, 2)  # two windows; columns 2 and 3 are seen twice
    parts = [Window(box, torch.full((1, 4, 4), value), 4, 4) for box, value in zip(boxes, (1.0, 3.0), strict=True)]
    assert ScoreMap(parts, 4, 6).whole()[0, 0].tolist() == [1, 1, 2, 2, 3, 3]


@pytest.mark.parametrize("at_once", [7, 300, 2**21])
@pytest.mark.parametrize(("height", "width"), [(20, 31), (3, 4), (1, 90), (60, 5)])
def test_labels_in_tiles_are_those_of_all_scores_at_once(height, width, at_once, monkeypatch):
    monkeypatch.setattr("silc.eval.score_map.AT_ONCE", at_once)
    scores = torch.randn(15, 5, 7, generator=torch.Generator().manual_seed(0))
    whole = F.interpolate(scores[None], size=(height, width), mode="bilinear", align_corners=False)[0].argmax(0)
    assert torch.equal(score_map(scores).labels(height, width), whole)
    assert not score_map(torch.zeros(80, 5, 7)).labels(9, 9).any()  # of equal scores the first class comes first


@pytest.mark.parametrize("softmax", [False, True])
@pytest.mark.parametrize("size", [(448, 597), (300, 600), (91, 40)])
def test_scores_made_where_they_are_looked_at_are_those_of_a_canvas(size, softmax, monkeypatch):
    """Upsampled, stitched and resized as a whole, which takes the memory of all classes at all pixels."""
    monkeypatch.setattr("silc.eval.score_map.AT_ONCE", 5000)
    boxes, random = windows(*size, 64, 48), torch.Generator().manual_seed(0)
    canvas, visits, parts = torch.zeros(9, *size), torch.zeros(size), []
    for box in boxes:
        height, width = box.y2 - box.y1, box.x2 - box.x1
        patches = torch.randn(9, 5, 4, generator=random)
        full = F.interpolate(patches[None], (height + 3, width + 2), mode="bilinear")[0][
            :, 1 : 1 + height, 2 : 2 + width
        ]
        canvas[:, box.y1 : box.y2, box.x1 : box.x2] += full.softmax(0) if softmax else full
        visits[box.y1 : box.y2, box.x1 : box.x2] += 1
        parts.append(Window(box, patches, height + 3, width + 2, 1, 2))
    scores = ScoreMap(parts, *size, softmax)
    torch.testing.assert_close(scores.whole(), canvas / visits, rtol=0, atol=1e-5)
    best = F.interpolate((canvas / visits)[None], (120, 211), mode="bilinear")[0]
    assert torch.equal(scores.labels(120, 211), best.argmax(0))


def test_a_background_is_where_no_class_reaches_the_threshold():
    scores = torch.tensor([0.2, 0.6, 0.4]).view(3, 1, 1).repeat(1, 4, 4)
    scores[1, :, 2:] = 0.3
    labels = score_map(scores).labels(4, 4, background=0.5)
    assert labels[:, :2].eq(2).all()
    assert labels[:, 2:].eq(0).all()


LARGE = """
import resource, sys, torch
from silc.eval.score_map import ScoreMap, Window
from silc.eval.sliding import windows
parts = lambda names: [Window(box, torch.randn(names, 28, 28), 448, 448) for box in windows(448, 597, 448, 224)]
ScoreMap(parts(3), 448, 597).labels(50, 50)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for names, height, width in ((32, 3000, 4000), (1000, 480, 640), (4, 8000, 8000)):
    ScoreMap(parts(names), 448, 597).labels(height, width)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    print(grown / (1e6 if sys.platform == "darwin" else 1e3) - 8e-6 * height * width)
"""


@pytest.mark.slow
def test_memory_is_flat_in_pixels_and_names():
    """Megabytes beyond the labels themselves; 12 megapixels of 32 names took 1,700, 64 megapixels 10,000."""
    done = subprocess.run([sys.executable, "-c", LARGE], capture_output=True, text=True, check=True, timeout=500)
    assert all(float(line) < 200 for line in done.stdout.split())
    assert len(done.stdout.split()) == 3


def test_pixels_that_are_not_sure_have_no_label():
    """Against the probabilities of the whole map."""
    scores = 0.02 * torch.randn(5, 6, 8)
    one = ScoreMap([Window(Box(0, 0, 12, 16), scores, 12, 16)], 12, 16)
    probabilities = (100 * one.whole()).softmax(dim=0).amax(dim=0)
    found = one.labels(12, 16, confidence=0.6)
    assert 0.1 < (found < 0).double().mean() < 0.9
    assert torch.equal(found < 0, probabilities < 0.6)
    assert torch.equal(found[found >= 0], one.labels(12, 16)[found >= 0])
