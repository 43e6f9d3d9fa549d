"""Captions and answers of a writer that knows what it was told, scored by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image

from silc.encoder import Writer
from silc.errors import BadInput
from silc.eval.answering import QuestionAnswering
from silc.eval.caption_metrics import caption_scores
from silc.eval.captioning import Captioning
from silc.eval.config import EvalConfig
from silc.eval.datasets import QuestionSet, RetrievalSet
from silc.preprocess import Preprocess


@dataclass
class Parrot:
    """Says of an image, by its red, and a question what it was told."""

    told: Mapping[tuple[int, str], str]
    name: str = "parrot"
    prefixes: Sequence[str] = ("caption", "vqa")
    preprocess: Preprocess = field(default_factory=lambda: Preprocess(8))
    patch_size: int = 8
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    record: Mapping[str, Any] = field(default_factory=lambda: {"head": "parrot"})
    asked: list[tuple[str, int]] = field(default_factory=list)

    def write(self, images: Sequence[Image.Image], prefix: str, questions: Sequence[str] = ()) -> list[str]:
        self.asked.append((prefix, len(images)))
        seen = [image.getpixel((0, 0))[0] for image in images]  # type: ignore[index]
        return [self.told[one] for one in zip(seen, questions or [""] * len(seen), strict=True)]


def images(num: int) -> list[Image.Image]:
    return [Image.new("RGB", (500, 900), (number, 0, 0)) for number in range(num)]


QUESTIONS = QuestionSet(
    "own",
    images(3),
    [0, 0, 1, 2],
    ["is it red?", "what is it?", "is it blue?", "what is this?"],
    [["yes"], ["dog"], ["no"], ["cat"]],
    {"answer_type": ["yes/no", "other", "yes/no", "other"]},
)
TOLD = {(0, "is it red?"): "Yes", (0, "what is it?"): "cat", (1, "is it blue?"): "yes", (2, "what is this?"): "cat"}


def test_answers_are_scored_by_question_and_type() -> None:
    parrot = Parrot(TOLD)
    assert isinstance(parrot, Writer)
    task = QuestionAnswering("own-vqa", QUESTIONS, EvalConfig(batch_size=3))
    evaluation = task(parrot)  # type: ignore[arg-type]
    record = evaluation.record
    assert parrot.asked == [("vqa", 3), ("vqa", 1)]
    assert record.metrics == {"accuracy": 0.5}
    assert record.details["answer_type_accuracy"] == [
        {"class": "other", "questions": 2, "accuracy": 0.5},
        {"class": "yes/no", "questions": 2, "accuracy": 0.5},
    ]
    assert record.chance == {"accuracy": 0.0}  # of questions alike about other images the answers are others
    assert record.protocol["accuracy"] == "exact match with the commonest answer"
    assert record.details["answers"][1] == {"question": "what is it?", "truth": "dog", "answer": "cat"}
    # by images: two questions of the first, one of each other; a draw of images without any right one has 0
    assert sum(evaluation.resampled["accuracy"]) / 1000 == pytest.approx(0.5, abs=0.03)
    assert min(evaluation.resampled["accuracy"]) == 0
    assert [max(one.image.size) for one in evaluation.pictures] == [400] * 4
    assert evaluation.pictures[0].caption == "“is it red?” Yes; truth: yes"


def test_chance_is_the_best_that_questions_alone_tell() -> None:
    """By their first two words alone these questions are all alike."""
    asked = replace(
        QUESTIONS,
        about=[0, 0, 1, 1, 2, 2],
        questions=["is it red?", "is it blue?"] * 3,
        answers=[["yes"], ["no"]] * 3,
        types={},
    )
    told = {(image, question): "yes" for image in range(3) for question in ("is it red?", "is it blue?")}
    record = QuestionAnswering("own-vqa", asked, EvalConfig())(Parrot(told)).record  # type: ignore[arg-type]
    assert (record.metrics["accuracy"], record.chance["accuracy"]) == (0.5, 1.0)


def test_ten_annotators_have_the_official_accuracy() -> None:
    answers = [["yes"] * 9 + ["no"], ["dog"] * 2 + ["a cat"] * 8, ["no"] * 10, ["cat"] * 10]
    task = QuestionAnswering("own-vqa", replace(QUESTIONS, answers=answers), EvalConfig())
    metrics = task(Parrot(TOLD)).record.metrics  # type: ignore[arg-type]
    assert metrics["accuracy"] == pytest.approx((1 + 1 + 0 + 1) / 4)
    assert metrics["exact_match"] == pytest.approx((1 + 0 + 0 + 1) / 4)  # "a cat" is what most said


def test_few_annotators_are_no_ten() -> None:
    """VQA accuracy of three who agree is 2/3 at most: so few are compared with what most of them said."""
    task = QuestionAnswering("own-vqa", replace(QUESTIONS, answers=[["yes"] * 3, ["dog"] * 3] * 2), EvalConfig())
    record = task(Parrot({**TOLD, (0, "what is it?"): "dog"})).record  # type: ignore[arg-type]
    assert record.metrics == {"accuracy": 0.75}
    assert record.protocol["accuracy"] == "exact match with the commonest answer"
    four = QuestionAnswering("own-vqa", replace(QUESTIONS, answers=[["yes"] * 4] * 4), EvalConfig())
    assert four._scored(["yes"] * 4) == {"accuracy": [1.0] * 4, "exact_match": [1.0] * 4}


def test_a_set_has_its_own_prefix_where_it_was_learnt() -> None:
    parrot = Parrot(TOLD, prefixes=("own", "vqa"))
    record = QuestionAnswering("own-vqa", QUESTIONS, EvalConfig())(parrot).record  # type: ignore[arg-type]
    assert parrot.asked[0][0] == record.protocol["prefix"] == "own"


def test_captions_are_scored() -> None:
    truth = [["a red dog", "the dog"], ["a blue cat"], ["the dog"]]
    told = {(0, ""): "a red dog", (1, ""): "a cat", (2, ""): "the dog"}
    evaluation = Captioning("own-caption", RetrievalSet("own", images(3), truth), EvalConfig())(
        Parrot(told)  # type: ignore[arg-type]
    )
    record = evaluation.record
    assert record.metrics == caption_scores(list(told.values()), truth).metrics
    assert record.chance == caption_scores(["the dog"] * 3, truth).metrics
    assert sum(evaluation.resampled["cider"]) / 1000 == pytest.approx(record.metrics["cider"], rel=0.1)
    assert record.details["captions"][1] == {"image": "1", "truth": "a blue cat", "written": "a cat"}
    assert evaluation.pictures[2].caption == "“the dog”; truth: “the dog”"


def test_what_cannot_be_scored_is_told() -> None:
    one = RetrievalSet("own", images(1), [["a dog"]])
    with pytest.raises(BadInput, match="own has one image; CIDEr weighs words by images"):
        Captioning("own-caption", one, EvalConfig())(Parrot({}))  # type: ignore[arg-type]
    with pytest.raises(BadInput, match=r"parrot has learnt vqa, not caption; train it on --data\.train 'caption:DATA'"):
        Captioning("own-caption", one, EvalConfig())(Parrot({}, prefixes=["vqa"]))  # type: ignore[arg-type]
    with pytest.raises(BadInput, match="this model writes no text; train a decoder"):
        QuestionAnswering("own-vqa", QUESTIONS, EvalConfig())(SimpleNamespace(name=""))  # type: ignore[arg-type]
