"""Templates, canonicalisation and ensembling."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import open_clip
import pytest
import torch
import torch.nn.functional as F

import silc.eval
from silc.errors import BadInput
from silc.eval.embed import ensemble, text_classifier
from silc.eval.prompts import canonicalize, class_names, prompts, templates


def test_the_80_templates_are_open_clips():
    assert templates("clip80") == [template("{}") for template in open_clip.OPENAI_IMAGENET_TEMPLATES]
    assert templates("clip80+1") == [*templates("clip80"), "{}"]
    assert templates("clip7") == [template("{}") for template in open_clip.SIMPLE_IMAGENET_TEMPLATES]


@pytest.mark.parametrize(
    ("name", "count"),
    [("clip80", 80), ("clip80+1", 81), ("maskclip85", 85), ("cifar18", 18), ("tcl9", 9), ("clip7", 7), ("plain", 1)],
)
def test_every_set_has_its_number_of_distinct_templates(name, count):
    found = templates(name)
    assert len(found) == len(set(found)) == count
    assert all(template.count("{}") == 1 for template in found)


def test_imagenets_names_are_open_clips():
    assert class_names("imagenet_1000") == list(open_clip.IMAGENET_CLASSNAMES)


COUNTS = {
    "ade_150": 150,
    "ade_847": 847,
    "pascal_context_459": 459,
    "pascal_context_59": 59,
    "pascal_context_59_catseg": 59,
    "voc_20": 20,
    "voc_20b_59_catseg": 59,
    "cityscapes_19": 19,
    "coco_stuff_171": 171,
    "imagenet_1000": 1000,
    "voc_20_maskclip": 20,
    "voc_20_synonyms": 20,
    "pascal_context_59_maskclip": 59,
    "pascal_context_59_synonyms": 59,
    "pascal_context_459_maskclip": 459,
    "coco_stuff_171_maskclip": 171,
    "ade_150_synonyms": 150,
    "cityscapes_19_synonyms": 19,
}


@pytest.mark.parametrize(("name", "count"), COUNTS.items())
def test_every_class_list_has_its_count_and_its_recorded_checksum(name, count):
    folder = Path(silc.eval.__file__).parent / "classes"
    source = json.loads((folder / "sources.json").read_text())[name]
    assert len(class_names(name)) == source["names"] == count
    assert hashlib.sha256((folder / f"{name}.txt").read_bytes()).hexdigest() == source["sha256"]


def test_class_lists_are_the_ones_that_were_given(silc_data):
    for file in (silc_data / "classes").glob("*.txt"):
        assert class_names(file.stem) == file.read_text().splitlines()


def test_names_are_kept_to_the_letter():
    assert class_names("ade_150")[7] == "bed "
    assert class_names("pascal_context_59")[49] == "table"
    assert class_names("pascal_context_59_catseg")[49] == "diningtable"


def test_an_unknown_set_is_named_with_the_nearest():
    with pytest.raises(
        BadInput, match=r"no prompt set 'tcl'; did you mean 'tcl9'\? There are clip80, clip7, cifar18, "
    ):
        templates("tcl")


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("test_test", "test test"),
        ("test___test", "test test"),
        ("test", "test"),
        ("test.", "test"),
        (" test ", "test"),
        ("test\ntest", "test test"),
        ("test  test", "test test"),
        ("test {}", "test"),
        ("A Photo, of: it's", "a photo of its"),
    ],
)
def test_canonicalize(text, want):
    assert canonicalize(text) == want


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("test {}", "test {}"),
        (" test  {}...", "test {}"),
        ("test {}  {}  {}", "test {} {} {}"),
        ("a {fish} {}!", "a fish {}"),
    ],
)
def test_canonicalize_keeping_braces(text, want):
    assert canonicalize(text, keep_braces=True) == want


def test_a_name_with_braces_or_percent_is_only_text():
    assert prompts("{0} 5% {", ["a {}.", "{}"]) == ["a {0} 5% {.", "{0} 5% {"]


def test_the_two_orders_of_ensembling_differ_on_features_of_different_length():
    features = torch.tensor([[[3.0, 0.0], [0.0, 1.0]]])
    equal = ensemble(features, "normalize, mean, normalize")
    longer = ensemble(features, "mean, normalize")
    assert equal.tolist() == [pytest.approx([2**-0.5, 2**-0.5])]
    assert longer.tolist() == [pytest.approx([3 / 10**0.5, 1 / 10**0.5])]


class SpelledOut:
    """A text encoder whose features tell prompts apart."""

    name, device = "spelled", torch.device("cpu")

    def tokenizer(self, texts):
        return torch.tensor([[len(text), sum(map(ord, text)), ord(text[0])] for text in texts])

    def encode_text(self, ids, *, normalize=True):
        features = ids.float().sin()
        return F.normalize(features, dim=-1) if normalize else features


@pytest.mark.parametrize("batch_size", [1, 4, 100])
@pytest.mark.parametrize("order", ["normalize, mean, normalize", "mean, normalize"])
def test_text_classifier_equals_a_loop(batch_size, order):
    model, names, patterns = SpelledOut(), ["cat", "dog", "bird"], ["a {}", "{} it is", "{}"]
    want = []
    for name in names:
        ids = model.tokenizer([pattern.replace("{}", name) for pattern in patterns])
        each = model.encode_text(ids, normalize=order != "mean, normalize")
        want.append(F.normalize(each.mean(0), dim=0))
    got = text_classifier(model, names, patterns, order, batch_size=batch_size)
    torch.testing.assert_close(got, torch.stack(want))
