"""Sliding windows: mmcv's resize rule, mmseg's windows, TCL's padding, averaging."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from silc.errors import BadInput
from silc.eval import pamr
from silc.eval.config import EvalConfig
from silc.eval.datasets import SegmentationSet
from silc.eval.decoders import TclMasks, cosine
from silc.eval.protocols import SLIDING_WINDOW
from silc.eval.score_map import Box, ScoreMap, Window
from silc.eval.segment import ZeroShotSegmentation
from silc.eval.sliding import Scorer, rescale_size, score_windows, window_rules, windows
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
    scores = ScoreMap(list(score_windows(by_tcl(cosine(Constant(), EvalConfig()), torch.eye(2), 2), crops)), 12, 17)
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
    scores = next(as_scored(cosine(model, EvalConfig()), torch.eye(3), [crop]))
    assert model.seen.shape == (1, 3, 8, 8)
    want = torch.zeros(8, 8)
    want[1:6, 0:7] = 1  # 3 rows too few: 1 above, 2 below; 1 column too few: 0 left, 1 right
    assert torch.equal(model.seen[0, 0], want)
    assert scores.shape == (3, 5, 7)


def test_crops_of_different_sizes_come_back_in_order():
    sizes = [(8, 8), (8, 8), (5, 7), (8, 8)]
    crops = [torch.full((3, *size), 60 * i + 1, dtype=torch.uint8) for i, size in enumerate(sizes)]
    maps = list(as_scored(cosine(Centred(), EvalConfig()), torch.tensor([[1.0, 0, 0]]), crops, 2))
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
    with pytest.raises(BadInput, match=r"oracle has no dense readout 'tokens'; there are: colour"):
        ZeroShotSegmentation("x", data, EvalConfig(readout="tokens"))(oracle)
    with pytest.raises(BadInput, match="oracle has no dense readout"):
        ZeroShotSegmentation("x", data, EvalConfig())(replace(oracle, readouts=()))
    blank = SegmentationSet("blank", ["w4"], ["0"], [flat(4)], [np.full((24, 24), 255)])
    with pytest.raises(BadInput, match="blank: every pixel of its 1 labels is ignored"):
        ZeroShotSegmentation("x", blank, EvalConfig())(oracle)


# --- protocols


class Patches:
    """Dense features of two readouts that depend on position and content, with a patch of 4."""

    name = "patches"
    patch_size = 4
    readouts = ("linear", "squared")
    device = torch.device("cpu")
    weight = torch.randn(3, 6, generator=torch.Generator().manual_seed(1))

    def __init__(self, size):
        self.preprocess = Preprocess(size, interpolation="bilinear")

    def tokenizer(self, texts):
        return torch.tensor([[len(text), sum(map(ord, text))] for text in texts])

    def encode_text(self, ids, *, normalize=True):
        features = torch.stack([(ids.sum(1) * i).float().sin() * (i + 1) for i in range(6)], dim=1)
        return F.normalize(features, dim=-1) if normalize else features

    def encode_dense(self, images, readout):
        pooled = F.avg_pool2d(images, 4).permute(0, 2, 3, 1) @ self.weight
        return pooled if readout == "linear" else pooled.square()


def two_images():
    rng = np.random.default_rng(0)
    sizes = [(50, 37), (33, 61)]
    images = [Image.fromarray(rng.integers(0, 256, (h, w, 3), dtype=np.uint8)) for w, h in sizes]
    labels = [rng.integers(0, 4, (h, w)).astype(np.uint8) for w, h in sizes]
    return SegmentationSet("two", ["ant", "bee", "cat"], ["0", "1"], images, labels, background_ignored=True)


def reference(model, data, config, *, templates, order, shorter, window, stride, softmax):
    """A second, slower writing of the protocols: one image, one window at a time; returns label maps."""
    from silc.eval.prompts import templates as named
    from silc.preprocess import resample

    names = data.classes
    text = []
    for name in names:
        prompts = model.encode_text(
            model.tokenizer([t.replace("{}", name) for t in named(templates)]), normalize=order != "mean, normalize"
        )
        text.append(F.normalize(prompts.mean(0), dim=0))
    text = torch.stack(text)
    for index in range(len(data)):
        image, truth = data.example(index)
        scale = shorter / min(image.size)
        width, height = (
            (int(side * scale + 0.5) for side in image.size)
            if not softmax
            else (int(shorter * side / min(image.size)) for side in image.size)
        )
        pixels = model.preprocess.normalize(resample(image, width, height, config))[None]
        total, count = torch.zeros(1, len(names), height, width), torch.zeros(1, 1, height, width)
        for i in range(max(height - window + stride - 1, 0) // stride + 1):
            for j in range(max(width - window + stride - 1, 0) // stride + 1):
                y2, x2 = min(i * stride + window, height), min(j * stride + window, width)
                y1, x1 = max(y2 - window, 0), max(x2 - window, 0)
                crop = pixels[:, :, y1:y2, x1:x2]
                h, w = crop.shape[-2:]
                up_h, up_w = (h + 3) // 4 * 4, (w + 3) // 4 * 4
                if softmax:  # TIPS, DINOv3
                    fitted = F.interpolate(crop, (up_h, up_w), mode="bicubic", align_corners=False)
                else:
                    top, left = (up_h - h) // 2, (up_w - w) // 2
                    fitted = F.pad(crop, (left, up_w - w - left, top, up_h - h - top))
                cos = torch.einsum("bhwd,cd->bchw", F.normalize(model.encode_dense(fitted, "linear"), dim=-1), text)
                if softmax:
                    full = F.interpolate(cos, (h, w), mode="bilinear", align_corners=False).softmax(1)
                else:
                    full = F.interpolate(cos, (up_h, up_w), mode="bilinear", align_corners=False)
                    full = full[:, :, top : top + h, left : left + w]
                total[:, :, y1:y2, x1:x2] += full
                count[:, :, y1:y2, x1:x2] += 1
        final = F.interpolate(total / count, truth.shape, mode="bilinear", align_corners=False)
        yield truth, final.softmax(1).argmax(1)[0].numpy()


@pytest.mark.parametrize(
    ("protocol", "size", "expected"),
    [
        ("tcl", 27, {"templates": "tcl9", "order": "mean, normalize", "shorter": 27, "window": 27, "stride": 13}),
        ("tips", 27, {"templates": "tcl9", "order": "n", "shorter": 27, "window": 27, "stride": 20}),
        ("dinov3", 24, {"templates": "clip80", "order": "n", "shorter": 32, "window": 24, "stride": 12}),
    ],
)
def test_each_protocol_equals_its_second_writing(protocol, size, expected):
    from sklearn.metrics import jaccard_score

    model, data = Patches(size), two_images()
    config = EvalConfig(segmentation=protocol, num_pictures=0, absent_classes="mmseg")
    record = ZeroShotSegmentation("two-zs-seg", data, config)(model).record
    pairs = list(reference(model, data, "bilinear", softmax=protocol != "tcl", **expected))
    truth, prediction = (np.concatenate([np.ravel(pair[i]) for pair in pairs]) for i in (0, 1))
    scored = truth != 255
    want = jaccard_score(truth[scored], prediction[scored], average="macro")
    assert record.metrics["miou"] == pytest.approx(want, abs=1e-12)
    assert len(set(prediction)) > 1
    assert (record.protocol["window"], record.protocol["stride"]) == (expected["window"], expected["stride"])
    assert record.protocol["protocol"] == protocol


@pytest.mark.parametrize(
    ("fields", "want"),
    [
        ({}, (448, 224, "shorter side 448, longer at most 2048, rounded nearest, cv2_bilinear", "pad")),
        ({"segmentation": "tips"}, (448, 336, "shorter side 448, rounded down, bicubic", "resize")),
        ({"segmentation": "dinov3"}, (384, 192, "shorter side 512, rounded down, bicubic", "resize")),
        ({"window": 256}, (256, 128, "shorter side 256, longer at most 1170, rounded nearest, bilinear", "pad")),
    ],
)
def test_a_model_of_enough_resolution_gets_the_published_numbers(fields, want):
    protocol = ZeroShotSegmentation("x", two_images(), EvalConfig(**fields)).protocol(Patches(512))
    assert (protocol["window"], protocol["stride"], protocol["resize"], protocol["fit"]) == want
    assert not protocol["tuned_on_labels"]
    assert protocol["refined"] is False


def test_the_longer_side_is_in_proportion_to_the_window():
    """A strip of 2,400 x 300 px: in windows of 448 it is 2,048 px long, in windows of 224 half of that."""
    found = []
    for window in (448, 224):
        rules = window_rules(cosine(Patches(512), EvalConfig()), EvalConfig(window=window))
        found.append(rescale_size(2400, 300, rules.shorter, rules.longer, rules.rounding))
    assert found == [(2048, 256), (1024, 128)]
    assert window_rules(cosine(Patches(512), EvalConfig()), EvalConfig(segmentation="tips", window=224)).longer is None


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


@pytest.mark.parametrize(("width", "height"), [(8000, 1), (1, 3000), (4000, 3)])
def test_thin_images(width, height):
    """TCL's longer side has a bound; where a protocol has none, an image too thin is refused by name."""
    image = Image.new("RGB", (width, height), (200, 30, 30))
    label = np.zeros((height, width), np.uint8)
    data = SegmentationSet("thin", ["ant", "bee"], ["0"], [image], [label])
    record = ZeroShotSegmentation("thin-zs-seg", data, EvalConfig(window=448))(Patches(448)).record
    assert 0 <= record.metrics["miou"] <= 1
    with pytest.raises(BadInput, match=rf"thin/0: an image of {width} x {height} pixels is too thin"):
        ZeroShotSegmentation("thin-zs-seg", data, EvalConfig(segmentation="tips", window=448))(Patches(448))


def test_tcls_mix_and_background_say_that_they_were_tuned():
    config = EvalConfig(background=0.5, mix="squared", num_pictures=0)
    record = ZeroShotSegmentation("two-zs-seg", two_images(), config)(Patches(24)).record
    assert record.protocol["tuned_on_labels"] is True
    assert record.protocol["mix"] == "0.7 own + 0.3 squared"
    assert [row["class"] for row in record.details["class_iou"]] == ["background", "ant", "bee", "cat"]
    data = replace(two_images(), background_ignored=False, classes=["background", "ant", "bee", "cat"])
    with pytest.raises(BadInput, match=r"two has no background that is left out; eval\.background must be 0"):
        ZeroShotSegmentation("x", data, EvalConfig(background=0.5))(Patches(24))


def test_the_mix_is_of_masks():
    model, classifier = Patches(8), torch.eye(6)[:3]
    crops = [torch.randint(0, 256, (3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))]
    linear, squared = (cosine(model, EvalConfig(readout=one, mix="squared")) for one in model.readouts)
    mixed = next(as_scored(TclMasks(linear, None, squared), classifier, crops))
    own, other = (
        torch.sigmoid(10 * next(as_scored(cosine(model, EvalConfig(readout=readout)), classifier, crops)) - 2.5)
        for readout in model.readouts
    )
    coarse_own, coarse_other = (next(as_scored(one, classifier, crops)) for one in (linear, squared))
    torch.testing.assert_close(mixed, 0.7 * coarse_own + 0.3 * coarse_other)
    torch.testing.assert_close(own[:, 0, 0], coarse_own[:, 0, 0])  # at a corner nothing is interpolated
    torch.testing.assert_close(other[:, 0, 0], coarse_other[:, 0, 0])


def test_refined_maps_are_labelled(oracle, flat):
    data = painted([(40, 30)], [flat(4).getpixel((0, 0)), flat(9).getpixel((0, 0))])
    record = ZeroShotSegmentation("halves-zs-seg", data, EvalConfig(pamr=True, num_pictures=0))(oracle).record
    assert record.protocol["refined"] == "PAMR"
    assert record.metrics["miou"] > 0.9


def test_maps_are_refined_on_the_grid_of_the_patches_before_they_are_enlarged_and_mixed():
    model, classifier = Patches(8), torch.eye(6)[:3]
    crop = torch.randint(0, 256, (3, 12, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    linear, squared = (cosine(model, EvalConfig(readout=readout)) for readout in model.readouts)
    got = next(as_scored(TclMasks(linear, pamr.refine_at_their_size, squared), classifier, [crop]))
    pixels = model.preprocess.normalize(crop[None])
    own, other = (
        torch.einsum("bhwd,cd->bchw", F.normalize(model.encode_dense(pixels, readout), dim=-1), classifier)[0]
        for readout in ("linear", "squared")
    )
    small = F.interpolate(pixels, (3, 4), mode="bilinear", align_corners=True)[0]
    mixed = 0.7 * pamr.refine(own, small) + 0.3 * other
    torch.testing.assert_close(got, F.interpolate(mixed[None], (12, 16), mode="bilinear", align_corners=False)[0])


def test_patches_of_16_reach_the_ceiling_that_averaging_leaves(oracle, flat):
    """What a reader of labels can score is bounded by its patches: the bound is computed without silc."""
    label = np.zeros((32, 48), np.uint8)
    label[5:, 10:30], label[20:, :] = 1, 2
    words = [3, 11, 20]
    pixels = np.array([flat(word).getpixel((0, 0)) for word in words], np.uint8)[label]
    data = SegmentationSet("x", [f"w{word}" for word in words], ["0"], [Image.fromarray(pixels)], [label])

    class Coarse(type(oracle)):
        def encode_dense(self, images, readout):
            fine = super().encode_dense(images, readout).permute(0, 3, 1, 2)
            return F.avg_pool2d(fine, 16).permute(0, 2, 3, 1)

    model = Coarse(preprocess=Preprocess(32), patch_size=16)
    record = ZeroShotSegmentation("x-zs-seg", data, EvalConfig(num_pictures=0))(model).record
    onehot = F.one_hot(torch.from_numpy(label).long(), 3).permute(2, 0, 1)[None].float()
    windows_of = [onehot[..., 0:32], onehot[..., 16:48]]
    up = [
        F.interpolate(F.normalize(F.avg_pool2d(part, 16), dim=1), scale_factor=16, mode="bilinear")
        for part in windows_of
    ]
    total = F.pad(up[0], (0, 16)) + F.pad(up[1], (16, 0))
    total[..., 16:32] /= 2
    guess, truth = total.argmax(1)[0].numpy(), label
    ceiling = np.mean([((guess == c) & (truth == c)).sum() / ((guess == c) | (truth == c)).sum() for c in range(3)])
    assert record.metrics["miou"] == pytest.approx(ceiling)
    assert 0.5 < ceiling < 1


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
