"""VQA accuracy against the official code's outputs and big_vision's, and by hand."""

from __future__ import annotations

import json
from typing import Any

import pytest

from silc.eval.vqa_accuracy import commonest, exact_match, normalised, stripped, vqa_accuracy, without_marks


@pytest.fixture(scope="module")
def fixture() -> Any:
    from tests.conftest import SILC_DATA

    file = SILC_DATA / "oracles" / "caption_vqa" / "vqa.json"
    if not file.is_file():
        pytest.skip(f"no {file}; set $SILC_DATA to the kit's folder")
    return json.loads(file.read_text())


def test_answers_are_normalised_as_officially(fixture: Any) -> None:
    for one in fixture["strings"]:
        ours = normalised(stripped(one["raw"]))
        assert ours == one["big_vision"]
        if one["raw"].count(".") > 32:  # the official code takes re.UNICODE, 32, for the number of replacements
            assert ours != one["official"]
            continue
        assert ours == one["official"]
        if stripped(one["raw"]) == one["raw"]:
            assert without_marks(one["raw"]) == one["after_punctuation"]


def test_accuracies_are_the_official_ones(fixture: Any) -> None:
    for one in fixture["cases"]:
        ours = vqa_accuracy(one["prediction"], one["answers"])
        assert 100 * ours == pytest.approx(one["official_accuracy_percent"], abs=1e-6)
        assert ours == pytest.approx(one["big_vision_accuracy"], abs=1e-6)


@pytest.mark.parametrize(
    ("answer", "truth", "accuracy"),
    [
        ("yes", ["yes"] * 2 + ["no"] * 8, (2 * 1 / 3 + 8 * 2 / 3) / 10),
        ("yes", ["yes"] * 4 + ["no"] * 6, 1.0),
        ("two", ["2"] * 9 + ["3"], 1.0),
        ("Yes", ["yes"] * 10, 0.0),  # where all agree, nothing is normalised
        ("maybe", ["yes"] * 5 + ["no"] * 5, 0.0),
    ],
)
def test_accuracy_by_hand(answer: str, truth: list[str], accuracy: float) -> None:
    assert vqa_accuracy(answer, truth) == pytest.approx(accuracy)


def test_exact_match() -> None:
    assert exact_match(" Red\n", ["blue", "red", "red"])
    assert not exact_match("blue", ["blue", "red", "red"])
    assert commonest(["b", "a", "a", "b"]) == "b"
