"""Zero-shot segmentation by each protocol, against a second writing of it, and what its records say."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from silc.errors import BadInput
from silc.eval.config import EvalConfig
from silc.eval.datasets import SegmentationSet
from silc.eval.segment import ZeroShotSegmentation
from silc.preprocess import Preprocess


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
def test_each_protocol_equals_its_second_writing(patches, protocol, size, expected):
    from sklearn.metrics import jaccard_score

    model, data = patches(size), two_images()
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
def test_a_model_of_enough_resolution_gets_the_published_numbers(patches, fields, want):
    protocol = ZeroShotSegmentation("x", two_images(), EvalConfig(**fields)).protocol(patches(512))
    assert (protocol["window"], protocol["stride"], protocol["resize"], protocol["fit"]) == want
    assert not protocol["tuned_on_labels"]
    assert protocol["refined"] is False


@pytest.mark.parametrize(("width", "height"), [(8000, 1), (1, 3000), (4000, 3)])
def test_thin_images(patches, width, height):
    """TCL's longer side has a bound; where a protocol has none, an image too thin is refused by name."""
    image = Image.new("RGB", (width, height), (200, 30, 30))
    label = np.zeros((height, width), np.uint8)
    data = SegmentationSet("thin", ["ant", "bee"], ["0"], [image], [label])
    record = ZeroShotSegmentation("thin-zs-seg", data, EvalConfig(window=448))(patches(448)).record
    assert 0 <= record.metrics["miou"] <= 1
    with pytest.raises(BadInput, match=rf"thin/0: an image of {width} x {height} pixels is too thin"):
        ZeroShotSegmentation("thin-zs-seg", data, EvalConfig(segmentation="tips", window=448))(patches(448))


def test_tcls_mix_and_background_say_that_they_were_tuned(patches):
    config = EvalConfig(background=0.5, mix="squared", num_pictures=0)
    record = ZeroShotSegmentation("two-zs-seg", two_images(), config)(patches(24)).record
    assert record.protocol["tuned_on_labels"] is True
    assert record.protocol["mix"] == "0.7 own + 0.3 squared"
    assert [row["class"] for row in record.details["class_iou"]] == ["background", "ant", "bee", "cat"]
    data = replace(two_images(), background_ignored=False, classes=["background", "ant", "bee", "cat"])
    with pytest.raises(BadInput, match=r"two leaves out no background that eval\.background could score; set it to 0"):
        ZeroShotSegmentation("x", data, EvalConfig(background=0.5))(patches(24))


def test_refined_maps_are_labelled(oracle, flat):
    data = painted([(40, 30)], [flat(4).getpixel((0, 0)), flat(9).getpixel((0, 0))])
    record = ZeroShotSegmentation("halves-zs-seg", data, EvalConfig(pamr=True, num_pictures=0))(oracle).record
    assert record.protocol["refined"] == "PAMR"
    assert record.metrics["miou"] > 0.9


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


def test_only_sure_pixels_are_scored_where_it_is_asked_for(oracle, flat):
    """PACL's partial evaluation: one half of each image has a colour that is neither class's."""
    four, neither = (flat(index).getpixel((0, 0)) for index in (4, 20))
    data = painted([(32, 24), (24, 24)], [four, neither])
    whole = ZeroShotSegmentation("halves-zs-seg", data, EvalConfig())(oracle).record
    assert "coverage" not in whole.metrics
    assert whole.protocol["confidence"] is False
    assert whole.metrics["pixel_acc"] == pytest.approx(0.5, abs=0.1)
    partial = ZeroShotSegmentation("halves-zs-seg", data, EvalConfig(confidence=0.9))(oracle).record
    assert partial.protocol["confidence"] == 0.9
    assert partial.metrics["coverage"] == pytest.approx(0.5, abs=0.1)
    assert partial.metrics["pixel_acc"] > 0.9
    same = painted([(24, 24)], [neither, neither])
    with pytest.raises(BadInput, match=r"no labelled pixel of halves reaches eval\.confidence 0\.9; lower it"):
        ZeroShotSegmentation("halves-zs-seg", same, EvalConfig(confidence=0.9))(oracle)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"segmentation": "tips"}, "protocol tips takes a softmax of windows"),
        ({"segmentation": "dinov3"}, "protocol dinov3 takes a softmax of windows"),
        ({"decoder": "scga"}, "scores of decoder scga are no cosines"),
        ({"background": 0.5}, "masks of TCL are no cosines"),
    ],
)
def test_sure_pixels_are_known_by_cosines_alone(oracle, flat, changed, said):
    """A softmax of 100 probabilities is no probability: with two classes nearly every pixel would be sure."""
    data = painted([(24, 24)], [flat(index).getpixel((0, 0)) for index in (4, 20)])
    if "background" in changed:
        data = replace(data, background_ignored=True)
    with pytest.raises(
        BadInput, match=re.escape(f"eval.confidence is a probability, softmax(100 cosines), and {said}")
    ):
        ZeroShotSegmentation("halves-zs-seg", data, EvalConfig(confidence=0.5, **changed))(oracle)
