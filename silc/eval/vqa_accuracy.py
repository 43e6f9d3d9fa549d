"""VQA accuracy with the official normalisation, and exact match. Imports no torch.

The rules are those of the evaluation code of VQA (GT-Vision-Lab) and of big_vision, with their oddities. A mark is
deleted everywhere if it touches a blank once, or if the text has a comma between digits; otherwise it becomes a blank.
The official code deletes at most 32 full stops, because of a wrong argument; here, as in big_vision, all are deleted.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from functools import cache

MARKS = ';/[]"{}()=+\\_-><@`,?!'
STOP = re.compile(r"\.(?!\d)")
COMMA_IN_A_NUMBER = re.compile(r"\d,\d")
ARTICLES = ("a", "an", "the")
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
NUMBERS = {"none": "0"} | {word: str(number) for number, word in enumerate(DIGITS)}
SPELT = """
ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd he'd've
he's how'd how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've might've mustn't must've needn't not've
o'clock oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've somebody'd've somebody'll somebody's
someone'd someone'd've someone'll someone's something'd something'd've something'll that's there'd there'd've there're
there's they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll what're what's what've
when's where'd where's where've who'd who'd've who'll who's who've why'll why're why's won't would've wouldn't
wouldn't've y'all y'all'll y'all'd've you'd you'd've you'll you're you've
"""
"""Contractions that are recognised if one apostrophe is missing."""
CONTRACTIONS = {
    word[:place] + word[place + 1 :]: word for word in SPELT.split() for place, mark in enumerate(word) if mark == "'"
} | {"somebody'd": "somebodyd"}
ANNOTATORS = 3
"""Number of the other annotators that must have given an answer for it to count as right."""


def without_marks(text: str) -> str:
    """A text without punctuation, by the official rules."""
    found, number = text, COMMA_IN_A_NUMBER.search(text)
    for mark in MARKS:
        deleted = number or f"{mark} " in text or f" {mark}" in text
        found = found.replace(mark, "" if deleted else " ")
    return STOP.sub("", found)


@cache
def normalised(text: str) -> str:
    """An answer as it is compared: lower case, no marks, no articles, digits for number words, apostrophes restored.

    >>> normalised("The two dogs, dont!")
    "2 dogs don't"
    """
    numbers = (NUMBERS.get(word, word) for word in without_marks(text).lower().split())
    return " ".join(CONTRACTIONS.get(word, word) for word in numbers if word not in ARTICLES)


def stripped(text: str) -> str:
    """An answer on one line."""
    return text.replace("\n", " ").replace("\t", " ").strip()


def vqa_accuracy(answer: str, truth: Sequence[str]) -> float:
    """Accuracy of an answer, 0 to 1: the mean, over each annotator left out, of min(1, matches among the others / 3).

    If all annotators agree, nothing is normalised, as in the official code.

    Args:
        truth: the annotators' answers, ten in VQA.
    """
    given, theirs = stripped(answer), [stripped(one) for one in truth]
    if len(set(theirs)) > 1:
        given, theirs = normalised(given), [normalised(one) for one in theirs]
    matches = theirs.count(given)
    each = (min(1.0, (matches - (one == given)) / ANNOTATORS) for one in theirs)
    return sum(each) / len(theirs)


def exact_match(answer: str, truth: Sequence[str]) -> bool:
    """Whether an answer is the annotators' commonest answer, ignoring case and blanks around it."""
    return stripped(answer).lower() == commonest(truth).lower()


def commonest(answers: Sequence[str]) -> str:
    """The answer that most annotators gave; of equally common ones the first."""
    return Counter(stripped(one) for one in answers).most_common(1)[0][0]
