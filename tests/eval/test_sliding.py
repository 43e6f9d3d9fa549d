"""Sliding windows: mmcv's resize rule, mmseg's windows, TCL's padding."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from silc.eval.config import EvalConfig
from silc.eval.decoders import Cosine
from silc.eval.protocols import SLIDING_WINDOW
from silc.eval.score_map import Box, ScoreMap
from silc.eval.sliding import Scorer, rescale_size, scaled_size, score_windows, window_rules, windows
from silc.preprocess import Preprocess


@pytest.mark.parametrize(
    ("size", "want"),
    [
        ((500, 375), (597, 448)),
        ((375, 500), (448, 597)),
        ((640, 480), (597, 448)),
        ((683, 512), (598, 448)),
        ((2048, 1024), (896, 448)),
        ((3000, 400), (2048, 273)),
    ],
)
def test_rescale_size(size, want):
    assert rescale_size(*size, 448, 2048) == want


@pytest.mark.parametrize(
    ("height", "width", "want"),
    [
        (448, 448, [(0, 0, 448, 448)]),
        (448, 597, [(0, 0, 448, 448), (0, 149, 448, 597)]),
        (448, 672, [(0, 0, 448, 448), (0, 224, 448, 672)]),
        (448, 896, [(0, 0, 448, 448), (0, 224, 448, 672), (0, 448, 448, 896)]),
        (300, 448, [(0, 0, 300, 448)]),
    ],
)
def test_windows(height, width, want):
    assert windows(height, width, 448, 224) == want


def by_tcl(predictor, classes, batch_size=1):
    """A scorer by TCL's windows."""
    return Scorer(predictor, classes, SLIDING_WINDOW["tcl"], batch_size)


def as_scored(predictor, classes, crops, batch_size=1):
    """Scores [C, H, W] of each crop, at all its pixels."""
    placed = [(Box(0, 0, *crop.shape[1:]), crop) for crop in crops]
    for window in score_windows(by_tcl(predictor, classes, batch_size), placed):
        yield window.at(torch.arange(window.box.y2), torch.arange(window.box.x2))


class Constant:
    """Gives every patch the same feature."""

    name = "constant"
    readouts = ("any",)
    patch_size = 5
    preprocess = Preprocess(12)
    device = torch.device("cpu")

    def encode_dense(self, images, readout):
        batch, _, height, width = images.shape
        assert height % self.patch_size == width % self.patch_size == 0
        return torch.tensor([3.0, 4.0]).expand(batch, height // self.patch_size, width // self.patch_size, 2)


def test_constant_scores_stay_constant_through_padding_upsampling_averaging_and_resizing():
    pixels = torch.zeros(3, 12, 17, dtype=torch.uint8)
    boxes = windows(12, 17, 12, 6)
    crops = [(box, pixels[:, box.y1 : box.y2, box.x1 : box.x2]) for box in boxes]
    scores = ScoreMap(list(score_windows(by_tcl(Cosine(Constant(), EvalConfig()), torch.eye(2), 2), crops)), 12, 17)
    torch.testing.assert_close(scores.whole(), torch.tensor([0.6, 0.8])[:, None, None].expand(2, 12, 17))
    assert (scores.labels(30, 41) == 1).all()


class Centred:
    """Dense features that are the pixels themselves."""

    name = "centred"
    readouts = ("any",)
    patch_size = 4
    preprocess = Preprocess(8, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    device = torch.device("cpu")

    def encode_dense(self, images, readout):
        self.seen = images
        return F.avg_pool2d(images, 4).permute(0, 2, 3, 1)


def test_short_crops_are_padded_centred_with_zeros_after_normalisation():
    model = Centred()
    crop = torch.full((3, 5, 7), 255, dtype=torch.uint8)
    scores = next(as_scored(Cosine(model, EvalConfig()), torch.eye(3), [crop]))
    assert model.seen.shape == (1, 3, 8, 8)
    want = torch.zeros(8, 8)
    want[1:6, 0:7] = 1  # 3 rows too few: 1 above, 2 below; 1 column too few: 0 left, 1 right
    assert torch.equal(model.seen[0, 0], want)
    assert scores.shape == (3, 5, 7)


def test_crops_of_different_sizes_come_back_in_order():
    sizes = [(8, 8), (8, 8), (5, 7), (8, 8)]
    crops = [torch.full((3, *size), 60 * i + 1, dtype=torch.uint8) for i, size in enumerate(sizes)]
    maps = list(as_scored(Cosine(Centred(), EvalConfig()), torch.tensor([[1.0, 0, 0]]), crops, 2))
    assert [tuple(scores.shape[1:]) for scores in maps] == sizes


def test_the_longer_side_is_in_proportion_to_the_window(patches):
    """A strip of 2,400 x 300 px: in windows of 448 it is 2,048 px long, in windows of 224 half of that."""
    found = []
    for window in (448, 224):
        rules = window_rules(Cosine(patches(512), EvalConfig()), EvalConfig(window=window))
        found.append(rescale_size(2400, 300, rules.shorter, rules.longer, rules.rounding))
    assert found == [(2048, 256), (1024, 128)]
    assert window_rules(Cosine(patches(512), EvalConfig()), EvalConfig(segmentation="tips", window=224)).longer is None


@pytest.mark.parametrize(
    ("protocol", "dataset", "want"),
    [
        # RADSeg's mid_res_configs and high_res_configs, then up to whole strides of 224 (112): _preprocess_image.
        ("radseg-mid", "ade150", (576, 2048, 336, 224)),
        ("radseg-mid", "pc59", (576, 4096, 336, 224)),
        ("radseg-mid", "cityscapes", (688, 2048, 336, 224)),
        ("radseg-mid", "coco-stuff", (448, 2048, 336, 224)),
        ("radseg-mid", "voc20", (336, 2048, 336, 112)),
        ("radseg-mid", "mine", (576, 2048, 336, 224)),
        ("radseg-high", "ade150", (672, 2016, 336, 224)),
        ("radseg-high", "voc20", (672, 2016, 336, 224)),
        ("radseg-high", "cityscapes", (1344, 2688, 336, 224)),
        ("radseg-high", "coco-stuff", (896, 1334, 336, 224)),
        ("sclip", "ade150", (336, 2048, 224, 112)),
        ("sclip", "cityscapes", (560, 2048, 224, 112)),
        ("sclip", "coco-stuff", (448, 2048, 224, 112)),
        ("tcl", "cityscapes", (448, 2048, 448, 224)),
    ],
)
def test_a_protocol_has_its_authors_numbers_on_each_set(patches, protocol, dataset, want):
    rules = window_rules(Cosine(patches(448), EvalConfig()), EvalConfig(segmentation=protocol), dataset)
    assert (rules.shorter, rules.longer, rules.window, rules.stride) == want
    half = window_rules(Cosine(patches(rules.window // 2), EvalConfig()), EvalConfig(segmentation=protocol), dataset)
    assert (half.shorter, half.longer, half.window, half.stride) == tuple(side // 2 for side in want)


@pytest.mark.parametrize(
    ("size", "shorter", "stride", "want"),
    [
        ((200, 150), 150, 64, (256, 192)),
        ((683, 512), 576, 224, (896, 672)),  # 768 x 576
        ((683, 512), 672, 224, (896, 672)),
        ((500, 375), 336, 112, (448, 336)),
        ((640, 480), 448, 224, (672, 672)),  # 597 x 448 becomes 672 x 504, whose height goes up to 672
        ((2048, 1024), 1344, 224, (2688, 1344)),
    ],
)
def test_sides_go_up_to_whole_strides(size, shorter, stride, want):
    rules = replace(SLIDING_WINDOW["radseg-mid"], shorter=shorter, longer=4096, stride=stride, window=96)
    assert scaled_size(*size, rules) == want
    placed = windows(want[1], want[0], stride * 3 // 2, stride)
    assert all(side % (stride // 2) == 0 for box in placed for side in box)  # RADSeg asserts whole patches


def test_whole_strides_are_radsegs(silc_data):
    """The fixture's image of 150 x 200 was seen as 192 x 256: 12 x 16 patches of 16."""
    with np.load(silc_data / "oracles/decoders/radseg.npz", allow_pickle=False) as fixture:
        height, width = (
            fixture["image_u8"].shape[-2:] if fixture["image_u8"].shape[-1] != 3 else fixture["image_u8"].shape[-3:-1]
        )
        rules = replace(SLIDING_WINDOW["radseg-mid"], shorter=min(height, width), longer=None, stride=64, window=96)
        wide, high = scaled_size(width, height, rules)
        assert (high // 16, wide // 16) == fixture["feat_map"].shape[-2:]
