"""Captions' words and scores: the reference code's, its Java tokenizer's included, and values worked out by hand."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from silc.eval.caption_metrics import caption_scores, rouge_l
from silc.eval.caption_tokens import words


@pytest.fixture(scope="module")
def fixture() -> Any:
    from tests.conftest import SILC_DATA

    file = SILC_DATA / "oracles" / "caption_vqa" / "captions.json"
    if not file.is_file():
        pytest.skip(f"no {file}; set $SILC_DATA to the kit's folder")
    return json.loads(file.read_text())


def test_words_are_those_of_the_java_tokenizer(fixture: Any) -> None:
    pairs = [(one["caption"], one["tokens"]) for one in fixture["tokeniser_only"]]
    for own in fixture["sets"]:
        pairs += [*zip(own["refs"], own["refs_tokenised"], strict=True), (own["hyp"], own["hyp_tokenised"])]
    assert len(pairs) > 100
    for caption, tokens in pairs:
        assert " ".join(words(caption)) == tokens, caption


@pytest.mark.parametrize(
    ("caption", "tokens"),
    [
        ("He'll take the dogs' toys; they're hers.", "he 'll take the dogs toys they 're hers"),
        ("A red-and-white No. 7 bus (parked).", "a red-and-white no. 7 bus -lrb- parked -rrb-"),
        ("Two men\u2014one tall\u2014wave at 5:30!", "two men one tall wave at 5:30"),
        ("", ""),
    ],
)
def test_words(caption: str, tokens: str) -> None:
    assert " ".join(words(caption)) == tokens


def test_scores_are_those_of_the_reference_code(fixture: Any) -> None:
    sets = fixture["sets"]
    scores = caption_scores([own["hyp"] for own in sets], [own["refs"] for own in sets])
    names = {"rouge_l": "ROUGE_L", "cider": "CIDEr"} | {f"bleu_{n}": f"Bleu_{n}" for n in range(1, 5)}
    assert scores.metrics.keys() == names.keys()
    for ours, theirs in names.items():
        assert scores.metrics[ours] == pytest.approx(fixture["corpus"][theirs], abs=1e-9)
        for value, own in zip(scores.each[ours], sets, strict=True):
            assert value == pytest.approx(own[theirs], abs=1e-9)


def test_scores_by_hand() -> None:
    """Of four words three are right and in order; the first two make the only pair, and no three in a row are."""
    references = [["a red dog runs"], ["the cat"]]
    scores = caption_scores(["a red cat runs", "the cat"], references)
    assert scores.each["bleu_1"][0] == pytest.approx(3 / 4, abs=1e-6)
    assert scores.each["bleu_2"][0] == pytest.approx(math.sqrt(3 / 4 * 1 / 3), abs=1e-6)
    assert scores.each["rouge_l"] == pytest.approx([3 / 4, 1])
    # its own reference, word for word, but with no n-gram of three or four words
    assert scores.each["cider"][1] == pytest.approx(5)
    assert caption_scores(["the cat"], [["the cat"]]).metrics["cider"] == 0  # in all of one image, no word tells


def test_an_empty_caption_scores_nothing() -> None:
    scores = caption_scores(["", "the cat"], [["a dog"], ["the cat"]])
    assert all(scores.each[name][0] == pytest.approx(0, abs=1e-6) for name in scores.each)
    assert rouge_l([], [["a"]]) == 0


def test_a_caption_that_is_too_long_is_held_to_its_length() -> None:
    """CIDEr-D: repeating what is right gains nothing, and a length that is off loses."""
    references = [["a red dog runs on the grass"], ["the cat"]]
    right, twice = (
        caption_scores([text, "the cat"], references).each["cider"][0]
        for text in ("a red dog runs on the grass", "a red dog runs on the grass a red dog runs on the grass")
    )
    assert twice < 0.6 * right
