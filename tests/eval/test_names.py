"""Words for classes: lists, files of one's own, how several words become one class, and what is refused."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pytest
import torch
from PIL import Image

from silc.errors import BadInput
from silc.eval.config import EvalConfig
from silc.eval.datasets import SegmentationSet
from silc.eval.names import LISTS, wording
from silc.eval.prompts import class_names
from silc.eval.segment import ZeroShotSegmentation
from silc.eval.sliding import score_maps, scorer_of
from tests.eval.trees import labelled, painted, scene


def a_set(name="voc20", classes=None, **fields):
    return SegmentationSet(name, classes or class_names("voc_20"), [], [], [], **fields)


def test_published_names_are_each_their_own_word():
    found = wording(a_set())
    assert (found.words, found.owner) == (class_names("voc_20"), list(range(20)))
    assert found.sha256 == hashlib.sha256("\n".join(class_names("voc_20")).encode()).hexdigest()[:16]
    ade = wording(a_set("ade150", class_names("ade_150"), published="ade_150"))
    assert ade.words[7] == "bed "  # to the letter


@pytest.mark.parametrize(("kind", "published"), [(kind, name) for kind, found in LISTS.items() for name in found])
def test_every_list_names_every_class(kind, published):
    data = a_set("x", class_names(published), published=published)
    found = wording(data, kind)
    assert sorted(set(found.owner)) == list(range(len(data.classes)))
    assert all(word == word.strip() and word for word in found.words)


def test_what_maskclip_and_synonyms_say():
    voc = wording(a_set(published="voc_20"), "maskclip").words
    assert [voc[i] for i in (0, 10, 13, 15, 19)] == [
        "airplane",
        "dining table",
        "motorbike",
        "potted plant",
        "tv monitor",
    ]
    stuff = wording(a_set("coco-stuff", class_names("coco_stuff_171"), published="coco_stuff_171"), "maskclip").words
    assert len(set(stuff)) == 171
    assert {"brick wall", "tile floor", "blind window", "tile ceiling", "building"} <= set(stuff)
    found = wording(a_set("ade847", class_names("ade_847"), published="ade_847"), "synonyms")
    lines = class_names("ade_847")
    assert sum(", " in line for line in lines) == 217
    assert [word for word, owner in zip(found.words, found.owner, strict=True) if owner == 1] == ["building", "edifice"]


def test_a_background_has_words_but_where_a_threshold_finds_it():
    data = a_set("voc21", ["background", "cat", "dog"], background_words=["wall", "sky"])
    plain, named = wording(data), wording(data, background_names=True)
    assert (plain.words, plain.owner) == (["background", "cat", "dog"], [0, 1, 2])
    assert (named.words, named.owner) == (["wall", "sky", "cat", "dog"], [0, 0, 1, 2])
    found = wording(data, threshold=True)
    assert (found.words, found.owner) == (["cat", "dog"], [0, 1, 2])
    assert found.sha256 == plain.sha256 != named.sha256


def test_a_class_has_the_best_of_its_words(patches, tmp_path):
    """Against a loop: the largest softmax probability over a class's words, for each pixel."""
    rng = np.random.default_rng(3)
    image = Image.fromarray(rng.integers(0, 256, (30, 41, 3), dtype=np.uint8))
    data = SegmentationSet("mine", ["ant", "bee", "cat"], ["0"], [image], [rng.integers(0, 3, (30, 41))])
    file = tmp_path / "words.txt"
    file.write_text("ant, emmet\nbee\ncat, kitten, tom\n")
    model, config = patches(16), EvalConfig(names=str(file), num_pictures=0)
    record = ZeroShotSegmentation("mine-zs-seg", data, config)(model).record

    words, owner = ["ant", "emmet", "bee", "cat", "kitten", "tom"], [0, 0, 1, 2, 2, 2]
    (scores,) = score_maps([image], scorer_of(model, words, config))
    whole = scores.whole()[:, None].double()
    sized = torch.nn.functional.interpolate(whole.transpose(0, 1), (30, 41), mode="bilinear", align_corners=False)[0]
    probabilities = (40 * sized).softmax(dim=0)
    merged = torch.stack([probabilities[[i for i, o in enumerate(owner) if o == c]].amax(0) for c in range(3)])
    counts = torch.zeros(3, 3)
    for true, found in zip(data.labels[0].ravel(), merged.argmax(0).ravel().tolist(), strict=True):
        counts[true, found] += 1
    iou = counts.diagonal() / (counts.sum(0) + counts.sum(1) - counts.diagonal())
    assert record.metrics["miou"] == pytest.approx(iou.mean().item(), abs=1e-3)
    assert (counts > 0).all()  # every class is found
    assert (record.protocol["names"], record.protocol["num_words"]) == ("words.txt", 6)


@pytest.mark.parametrize("place", ["file", "folder"])
def test_lists_through_the_command_line(tmp_path, scored, place):
    seen, stored, miou = scene((0, 15), offset=1, zero=0)
    folder = tmp_path / "data/VOCdevkit/VOC2012"
    names = class_names("voc_20_maskclip")
    painted(folder / "JPEGImages/a.jpg", seen)
    labelled(folder / "SegmentationClass/a.png", stored)
    (folder / "ImageSets/Segmentation").mkdir(parents=True)
    (folder / "ImageSets/Segmentation/val.txt").write_text("a\n")
    (tmp_path / "lists").mkdir()
    own = tmp_path / "lists/voc20.txt"
    own.write_text("\n".join(f"{name},thing number {i}" for i, name in enumerate(names)))
    given = own if place == "file" else own.parent

    def record(asked):
        return scored(tmp_path / "data", names, "--tasks", "voc20-zs-seg", "--names", asked)["zeroshot_segmentation"]

    scored(tmp_path / "data", names, "--tasks", "voc20-zs-seg", "--names", "mmseg, maskclip")
    both = json.loads((tmp_path / "scores.json").read_text())
    assert [one["protocol"].get("names") for one in both] == [None, "maskclip"]
    assert "teacher maskclip" in (tmp_path / "report.html").read_text()
    published, maskclip, mine = record("mmseg"), record("maskclip"), record(str(given))
    assert maskclip["metrics"]["miou"] == pytest.approx(miou)
    assert mine["metrics"]["miou"] == pytest.approx(miou)
    assert published["metrics"]["miou"] < miou  # the reader knows no 'aeroplane'
    checksums = {one["protocol"]["names_sha256"] for one in (published, maskclip, mine)}
    assert len(checksums) == 3
    assert "names" not in published["protocol"]
    assert mine["protocol"]["num_words"] == 40


@pytest.mark.parametrize(
    ("names", "content", "fields", "said"),
    [
        (
            "maskclp",
            None,
            {},
            r"unknown list of names 'maskclp'; did you mean 'maskclip'\?; there are: mmseg",
        ),
        ("synonyms", None, {"published": "coco_stuff_171"}, "voc20 has no list of names 'synonyms'; .* 20 classes"),
        ("own.txt", "a\nb\n", {}, r"own\.txt names 2 classes, and voc20 has 20; write one line for each"),
        ("own.txt", "a,,b\n", {}, r"own\.txt: line 1 has an empty word"),
        ("own.txt", "", {}, r"own\.txt is empty; write one class name per line"),
        ("own.txt", None, {}, r"own\.txt is missing"),
        ("", None, {}, r"voc20\.txt is missing"),
    ],
)
def test_a_list_that_does_not_fit_is_refused_in_a_line(tmp_path, names, content, fields, said):
    if content is not None:
        (tmp_path / names).write_text(content)
    given = names if names.isalpha() else f"{tmp_path}/{names}"
    with pytest.raises(BadInput, match=said) as raised:
        ZeroShotSegmentation("voc20-zs-seg", a_set(**fields), EvalConfig(names=given))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("fields", "settings", "said"),
    [
        ({}, {}, "voc20 has no list of names for its background; leave out eval.background_names"),
        ({"background_words": ["sky"]}, {"background": 0.5}, "finds the background by a threshold, without names"),
        ({"background_words": ["sky"]}, {"names": "own.txt"}, "names the background itself, in its first line"),
    ],
)
def test_background_names_are_refused_where_they_are_not_read(tmp_path, monkeypatch, fields, settings, said):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.txt").write_text("\n".join(class_names("voc_20")))
    with pytest.raises(BadInput, match=said):
        ZeroShotSegmentation("x", a_set(**fields), EvalConfig(background_names=True, **settings))
