"""Answers without images, counted by hand."""

from __future__ import annotations

from dataclasses import replace

from PIL import Image

from silc.eval.datasets import QuestionSet
from silc.eval.question_only import question_only

IMAGES = [Image.new("RGB", (4, 4))] * 4
RED, BLUE = "Is it red?", "is it blue?"
ASKED = QuestionSet(
    "own",
    IMAGES,
    [0, 0, 1, 1, 2, 2, 3, 3],
    [RED, BLUE] * 4,
    [["yes"], ["no"], ["yes"], ["no"], ["yes"], ["no"], ["no"], ["no"]],
    {"question_type": ["is"] * 8, "answer_type": ["yes/no"] * 8},
)


def test_each_way_takes_the_commonest_answer_about_other_images() -> None:
    found = question_only(ASKED)
    assert list(found) == ["all", "question type", "first two words", "whole question"]
    assert found["all"] == found["question type"] == found["first two words"]
    assert found["all"] == ["no"] * 6 + ["yes"] * 2  # about the first three images both were said three times
    assert found["whole question"] == ["yes", "no"] * 4  # of the last image too: what it shows is not known


def test_an_answer_about_the_image_itself_is_not_known() -> None:
    """Alone with its question, an image is answered as the coarser way does, not as it is."""
    alone = replace(ASKED, questions=["is it red?"] * 6 + ["what is it?", "is it red?"], types={})
    answers = [["yes"], ["yes"], ["no"], ["yes"], ["no"], ["yes"], ["dog"], ["no"]]
    found = question_only(replace(alone, answers=answers))
    assert found["whole question"][6] == found["first two words"][6] == found["all"][6] == "yes"


def test_images_of_one_part_do_not_know_of_each_other() -> None:
    """The first and the eleventh of twenty images: what is asked of them alone is answered by neither."""
    asked = replace(
        ASKED,
        images=IMAGES * 5,
        about=range(20),
        questions=["why?" if image % 10 == 0 else "where?" for image in range(20)],
        answers=[["so"] if image % 10 == 0 else ["there"] for image in range(20)],
        types={},
    )
    assert question_only(asked)["whole question"] == ["there"] * 20
