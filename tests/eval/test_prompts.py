"""Templates, canonicalisation and ensembling."""

from __future__ import annotations

import open_clip
import pytest
import torch
import torch.nn.functional as F

from silc.eval.prompts import canonicalize, ensemble, prompts, templates, text_classifier
from silc.types import BadInput


def test_the_80_templates_are_open_clips():
    assert templates("clip80+1")[:80] == [template("{}") for template in open_clip.OPENAI_IMAGENET_TEMPLATES]


@pytest.mark.parametrize(("name", "count"), [("clip80+1", 81), ("tcl9", 9), ("plain", 1)])
def test_every_set_has_its_number_of_distinct_templates(name, count):
    found = templates(name)
    assert len(found) == len(set(found)) == count
    assert all(template.count("{}") == 1 for template in found)


def test_the_bare_name_is_the_81st():
    assert templates("clip80+1")[-1] == "{}"


def test_an_unknown_set_is_named_with_the_nearest():
    with pytest.raises(BadInput, match=r"no prompt set 'tcl'; did you mean 'tcl9'\? There are clip80\+1, tcl9, plain"):
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

    def encode_text(self, ids):
        return F.normalize(ids.float().sin(), dim=-1)


@pytest.mark.parametrize("batch_size", [1, 4, 100])
def test_text_classifier_equals_a_loop(batch_size):
    model, names, patterns = SpelledOut(), ["cat", "dog", "bird"], ["a {}", "{} it is", "{}"]
    want = []
    for name in names:
        each = model.encode_text(model.tokenizer([pattern.replace("{}", name) for pattern in patterns]))
        want.append(F.normalize(each.mean(0), dim=0))
    got = text_classifier(model, names, patterns, batch_size=batch_size)
    torch.testing.assert_close(got, torch.stack(want))
