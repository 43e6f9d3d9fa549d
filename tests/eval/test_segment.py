"""Sliding windows: mmcv's resize rule, mmseg's windows, TCL's padding, averaging."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from silc.eval.config import EvalConfig
from silc.eval.datasets import SegmentationSet
from silc.eval.segment import Scorer, ZeroShotSegmentation, class_maps, label_map, rescale_size, stitch, windows
from silc.preprocess import Preprocess
from silc.types import BadInput


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


def test_stride_of_the_window_on_exact_multiples_is_block_wise():
    scores = torch.randn(5, 8, 12, generator=torch.Generator().manual_seed(0))
    boxes = windows(8, 12, 4, 4)
    assert len(boxes) == 6
    blocks = (scores[:, y1:y2, x1:x2] for y1, x1, y2, x2 in boxes)
    assert torch.equal(stitch(blocks, boxes, torch.zeros(5, 8, 12)), scores)


def test_overlaps_are_averaged():
    boxes = windows(4, 6, 4, 2)  # two windows; columns 2 and 3 are seen twice
    maps = iter([torch.full((1, 4, 4), 1.0), torch.full((1, 4, 4), 3.0)])
    assert stitch(maps, boxes, torch.zeros(1, 4, 6))[0, 0].tolist() == [1, 1, 2, 2, 3, 3]


class Constant:
    """Gives every patch the same feature."""

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
    crops = [pixels[:, y1:y2, x1:x2] for y1, x1, y2, x2 in boxes]
    maps = class_maps(Scorer(Constant(), torch.eye(2), "any"), crops, 2)
    scores = stitch(maps, boxes, torch.zeros(2, 12, 17))
    torch.testing.assert_close(scores, torch.tensor([0.6, 0.8])[:, None, None].expand(2, 12, 17))
    assert (label_map(scores, 30, 41) == 1).all()


class Centred:
    """Dense features that are the pixels themselves."""

    patch_size = 4
    preprocess = Preprocess(8, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    device = torch.device("cpu")

    def encode_dense(self, images, readout):
        self.seen = images
        return F.avg_pool2d(images, 4).permute(0, 2, 3, 1)


def test_short_crops_are_padded_centred_with_zeros_after_normalisation():
    model = Centred()
    crop = torch.full((3, 5, 7), 255, dtype=torch.uint8)
    scores = next(class_maps(Scorer(model, torch.eye(3), "any"), [crop], 1))
    assert model.seen.shape == (1, 3, 8, 8)
    want = torch.zeros(8, 8)
    want[1:6, 0:7] = 1  # 3 rows too few: 1 above, 2 below; 1 column too few: 0 left, 1 right
    assert torch.equal(model.seen[0, 0], want)
    assert scores.shape == (3, 5, 7)


def test_crops_of_different_sizes_come_back_in_order():
    sizes = [(8, 8), (8, 8), (5, 7), (8, 8)]
    crops = [torch.full((3, *size), 60 * i + 1, dtype=torch.uint8) for i, size in enumerate(sizes)]
    maps = list(class_maps(Scorer(Centred(), torch.tensor([[1.0, 0, 0]]), "any"), crops, 2))
    assert [tuple(scores.shape[1:]) for scores in maps] == sizes


def painted(sizes, colours):
    """Images of coloured halves with their labels."""
    images, labels = [], []
    for width, height in sizes:
        label = np.zeros((height, width), np.uint8)
        label[:, width // 2 :] = 1
        images.append(Image.fromarray(np.array(colours, np.uint8)[label]))
        labels.append(label)
    return SegmentationSet("halves", ["w4", "w9"], [str(i) for i in range(len(sizes))], images, labels)


def test_batching_does_not_change_the_scores(oracle, flat):
    colours = [flat(4).getpixel((0, 0)), flat(9).getpixel((0, 0))]
    data = painted([(40, 30), (24, 24), (30, 50), (33, 24), (100, 10)], colours)
    scores = [
        ZeroShotSegmentation("halves-zs-seg", data, EvalConfig(batch_size=size))(oracle).record.metrics
        for size in (1, 3, 64)
    ]
    assert scores[0] == scores[1] == scores[2]
    assert scores[0]["miou"] > 0.9


def test_protocol_is_recorded(oracle, flat):
    data = painted([(24, 24)], [flat(4).getpixel((0, 0)), flat(9).getpixel((0, 0))])
    config = EvalConfig(absent_classes="detectron2", templates="plain", num_pictures=0)
    evaluation = ZeroShotSegmentation("halves-zs-seg", data, config)(oracle)
    assert evaluation.pictures == []
    protocol = evaluation.record.protocol
    assert protocol["window"] == 24
    assert protocol["stride"] == 12
    assert protocol["readout"] == "colour"
    assert protocol["templates"] == "plain"
    assert protocol["absent_classes"] == "detectron2"
    assert protocol["background_ignored"] is False


def test_bad_requests(oracle, flat):
    data = painted([(24, 24)], [flat(4).getpixel((0, 0)), flat(9).getpixel((0, 0))])
    with pytest.raises(BadInput, match=r"no dense readout 'tokens'; eval\.readout can be colour"):
        ZeroShotSegmentation("x", data, EvalConfig(readout="tokens"))(oracle)
    with pytest.raises(BadInput, match="oracle has no dense readout"):
        ZeroShotSegmentation("x", data, EvalConfig())(replace(oracle, readouts=()))
    blank = SegmentationSet("blank", ["w4"], ["0"], [flat(4)], [np.full((24, 24), 255)])
    with pytest.raises(BadInput, match="blank: every pixel of its 1 labels is ignored"):
        ZeroShotSegmentation("x", blank, EvalConfig())(oracle)
