"""Dense prediction by protocol: a predictor of one's own, decoders and refiners by name."""

from __future__ import annotations

import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from rich.console import Console

from silc.encoder import DensePredictor
from silc.errors import BadInput
from silc.eval import pamr, suite
from silc.eval.config import EvalConfig
from silc.eval.cosine import Cosine
from silc.eval.datasets import SegmentationSet
from silc.eval.decoders import DECODERS, predictor_of
from silc.eval.score_table import column_names, printed_table
from silc.eval.segment import ZeroShotSegmentation
from silc.eval.sliding import rescale_size, score_maps, scorer_of
from silc.eval.suite import run
from silc.eval.tables import paper_table
from silc.evaluation import evaluate
from silc.loading import load
from silc.predict import Model, Segmenter
from silc.preprocess import Preprocess, resample

SIZE = 20
CLASSES = ["dark", "red", "blue"]


class Brightest:
    """No encoder and no texts: a class for each channel, whole images of 20 x 20 pixels, as trained heads have them."""

    name = "brightest"
    patch_size = 1
    preprocess = Preprocess(SIZE, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    device = torch.device("cpu")
    record = {"decoder": "channels", "protocol": "one window"}  # noqa: RUF012
    rules = {"shorter": SIZE, "longer": None, "rounding": "squash", "window": SIZE, "stride": SIZE}  # noqa: RUF012

    def classes(self, names, embed):
        return torch.tensor([{"dark": 3, "red": 0, "blue": 2}[name] for name in names])

    def maps(self, images, classes):
        self.seen = images.shape
        return torch.cat([images, 0.5 - images[:, :1]], dim=1)[:, classes]


@pytest.fixture
def striped():
    """A picture of 30 x 50 pixels: black, red and blue, a third each."""
    truth = np.repeat(np.arange(3, dtype=np.uint8), 10)[None].repeat(50, axis=0)
    pixels = np.array([[0, 0, 0], [255, 0, 0], [0, 0, 255]], np.uint8)[truth]
    return SegmentationSet("striped", CLASSES, ["0"], [Image.fromarray(pixels)], [truth])


def test_a_predictor_of_ones_own_is_scored_in_its_own_windows(striped):
    own = Brightest()
    assert isinstance(own, DensePredictor)
    (evaluation,) = run(
        {"pretrained": own}, [ZeroShotSegmentation("striped-zs-seg", striped, EvalConfig(num_pictures=0))]
    )
    record = evaluation.record
    assert own.seen == (1, 3, SIZE, SIZE)
    assert record.metrics["miou"] > 0.85
    assert (record.model, record.protocol["decoder"], record.protocol["protocol"]) == (
        own.name,
        "channels",
        "one window",
    )
    assert (record.protocol["window"], record.protocol["refined"], record.protocol["tuned_on_labels"]) == (
        20,
        False,
        False,
    )
    image, truth = striped.example(0)
    found = Segmenter(own, CLASSES)(image)
    assert (found.labels.numpy() == truth).mean() > 0.9
    assert found.scores.shape == (3, SIZE, SIZE)
    behind = Segmenter(own, CLASSES[1:], EvalConfig(background=0.4))(image)
    assert behind.names == ["background", "red", "blue"]
    assert (behind.labels.numpy() == truth).mean() > 0.9
    assert torch.equal(found.labels, Model.segment(object.__new__(Model), image, CLASSES, predictor=own).labels)


def test_what_a_predictor_of_ones_own_does_not_read_is_refused(striped):
    for config in (EvalConfig(readout="tokens"), EvalConfig(mix="tokens")):
        with pytest.raises(BadInput, match="brightest makes class maps itself; leave out"):
            scorer_of(Brightest(), CLASSES, config)
    with pytest.raises(BadInput, match=r"brightest has windows of its own, 20 px; eval\.window must be 0"):
        scorer_of(Brightest(), CLASSES, EvalConfig(window=64))


def test_names_that_there_are_not(striped):
    for fields, message in (
        ({"decoder": "cosin"}, r"unknown decoder 'cosin'; did you mean 'cosine'\?; there are: cosine"),
        (
            {"refine": "pamr-image", "pamr": True},
            "pamr means eval.refine pamr, and eval.refine is pamr-image; give only one of them",
        ),
        ({"refine": "crf"}, "unknown refiner 'crf'; there are: pamr, pamr-image"),
    ):
        with pytest.raises(BadInput, match=message):
            ZeroShotSegmentation("striped-zs-seg", striped, EvalConfig(**fields))


def test_a_decoder_is_an_entry(oracle, striped, monkeypatch):
    """One that shows every patch as the first word: the record says its name, and TCL's mix goes with it."""

    def first(model, images, readout):
        features = model.encode_dense(images, readout)
        return F.one_hot(torch.ones_like(features[..., 0], dtype=torch.int64), features.shape[-1]).float()

    monkeypatch.setitem(DECODERS, "first", partial(Cosine, features=first, decoder="first"))
    data = replace(striped, classes=["w1", "w2", "w3"])
    for fields in ({}, {"mix": "colour"}):
        record = ZeroShotSegmentation("x", data, EvalConfig(decoder="first", **fields))(oracle).record
        assert (record.protocol["decoder"], record.protocol["readout"]) == ("first", "colour")
        assert record.metrics["miou"] == pytest.approx(1 / 9)  # a third of the pixels are right


@pytest.mark.parametrize("segmentation", ["tcl", "tips"])
def test_maps_are_refined_in_windows_or_stitched(oracle, flat, segmentation):
    image, names = Image.new("RGB", (30, 50), flat(4).getpixel((0, 0))), ["w4", "w9"]
    image.paste(flat(9).getpixel((0, 0)), (0, 0, 13, 21))

    def scored(**fields):
        scorer = scorer_of(oracle, names, EvalConfig(segmentation=segmentation, **fields))
        (scores,) = score_maps([image], scorer)
        return scores.whole(), scorer.rules

    plain, rules = scored()
    size = rescale_size(*image.size, rules.shorter, rules.longer, rules.rounding)
    pixels = oracle.preprocess.normalize(resample(image, *size, rules.interpolation))
    stitched, in_windows = scored(refine="pamr-image")[0], scored(refine="pamr")[0]
    torch.testing.assert_close(stitched, pamr.refine(plain, pixels))
    assert torch.equal(in_windows, scored(pamr=True)[0])
    assert not torch.equal(in_windows, plain)
    assert not torch.equal(stitched, plain)
    data = SegmentationSet("x", names, ["0"], [image], [np.zeros((50, 30), np.uint8)])
    task = ZeroShotSegmentation("x", data, EvalConfig(refine="pamr-image"))
    assert task.protocol(oracle)["refined"] == "PAMR of stitched maps"


def test_the_mix_is_of_masks(patches):
    model, classes = patches(8), torch.eye(6)[:3]
    pixels = torch.randn(2, 3, 8, 12, generator=torch.Generator().manual_seed(0))
    own, other = (Cosine(model, EvalConfig(readout=one)).maps(pixels, classes) for one in model.readouts)
    mixed = predictor_of(model, EvalConfig(mix="squared")).maps(pixels, classes)
    torch.testing.assert_close(mixed, 0.7 * torch.sigmoid(10 * own - 2.5) + 0.3 * torch.sigmoid(10 * other - 2.5))


def test_maps_are_refined_on_the_grid_of_the_patches_before_they_are_mixed(patches):
    model, classes = patches(8), torch.eye(6)[:3]
    pixels = torch.randn(2, 3, 12, 16, generator=torch.Generator().manual_seed(0))
    small = F.interpolate(pixels, (3, 4), mode="bilinear", align_corners=True)
    own, other = (Cosine(model, EvalConfig(readout=one, mix="squared")).maps(pixels, classes) for one in model.readouts)
    want = [0.7 * pamr.refine(*pair) + 0.3 * second for *pair, second in zip(own, small, other, strict=True)]
    got = predictor_of(model, EvalConfig(mix="squared", pamr=True)).maps(pixels, classes)
    torch.testing.assert_close(got, torch.stack(want))


def test_decoders_and_protocols_stand_side_by_side(root, oracle, tmp_path):
    """A column for each; what is not segmented has its own, and the paper's tables a row for each."""
    config = EvalConfig(root=str(root), tasks="*-zs-seg,*-zs", segmentation="tcl, tips", num_pictures=1)
    evaluators = suite.tasks(config)
    assert [own.config.segmentation for own in evaluators if own.name.endswith("-zs-seg")] == ["tcl", "tips"]
    evaluations = suite.run({"pretrained": oracle}, evaluators)
    names = column_names([evaluation.record for evaluation in evaluations])
    assert sorted(names) == ["pretrained", "pretrained tcl 24/24 px", "pretrained tips 24/24 px"]
    file = tmp_path / "scores.json"
    suite.write_scores(file, [evaluation.record for evaluation in evaluations])
    table = paper_table("main", [file])
    ours = [row.name for row in table.rows if not row.published]
    assert [name.rpartition(", ")[2] for name in ours] == ["tcl 24/24 px", "tips 24/24 px"]
    whole = [evaluation.record for evaluation in evaluations if evaluation.record.protocol.get("protocol") != "tips"]
    assert column_names(whole) == ["pretrained"] * len(whole)


def test_a_protocol_that_there_is_not():
    with pytest.raises(BadInput, match="unknown protocol 'tsl'; did you mean 'tcl'"):
        ZeroShotSegmentation("x", SegmentationSet("x", [], [], [], []), EvalConfig(segmentation="tsl"))


def test_a_decoder_by_name_in_python(finished):
    model = load(finished("clip"))
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8))
    plain = model.segment(image, ["red", "blue"]).scores
    assert not torch.equal(model.segment(image, ["red", "blue"], decoder="clearclip").scores, plain)
    model.second, other = model, load(finished("clip"))
    alike = model.segment(image, ["red", "blue"], decoder="proxyclip").scores
    with torch.no_grad():
        for parameter in other.visual.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)))
    model.second = other
    found = model.segment(image, ["red", "blue"], decoder="proxyclip").scores
    assert found.shape == plain.shape
    assert not torch.allclose(found, alike, atol=1e-3)
    assert not torch.allclose(alike, plain, atol=1e-3)


def test_a_second_encoder_by_name(finished, root):
    run_of = str(finished("clip"))
    fields = {"root": str(root), "tasks": "*-zs-seg", "decoder": "proxyclip, cosine", "num_pictures": 0}
    with pytest.raises(BadInput, match=r"only decoders proxyclip and lposs read eval\.second; leave it out"):
        evaluate(run_of, second=run_of, **{**fields, "decoder": "sclip,cosine"})
    proxy, cosine = (one.record.protocol for one in evaluate(run_of, second=run_of, **fields))
    assert (proxy["decoder"], proxy["second"]) == ("proxyclip", Path(run_of).name)
    assert "second" not in cosine
    with pytest.raises(BadInput, match=r"decoder proxyclip needs a second encoder; give its name: --second MODEL"):
        evaluate(run_of, **{**fields, "decoder": "proxyclip"})


def test_a_way_that_is_named_twice_is_scored_once():
    config = EvalConfig(decoder="cosine, sclip,cosine", segmentation="tcl,tcl")
    ways = [(one.decoder, one.segmentation) for one in suite.variants(config, "zeroshot_segmentation")]
    assert ways == [("cosine", "tcl"), ("sclip", "tcl")]


def test_many_ways_have_a_row_each(root, oracle, capsys):
    config = EvalConfig(root=str(root), tasks="*-zs-seg", segmentation="tcl,tips,sclip,dinov3", num_pictures=0)
    evaluations = suite.run({"student": oracle, "teacher": oracle}, suite.tasks(config))
    Console(width=100, file=sys.stdout).print(printed_table(evaluations))
    lines = capsys.readouterr().out.splitlines()
    (first,) = (line for line in lines if "-zs-seg" in line)
    assert first.split()[1:5] == ["miou", "student", "tcl", "24/24"]
    for way in ("tcl", "tips", "sclip", "dinov3"):
        for weights in ("student", "teacher"):
            assert sum(f"{weights} {way} " in line for line in lines) == 1
