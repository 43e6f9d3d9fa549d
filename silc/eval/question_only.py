"""Baseline of question answering without images: answers from the questions alone. Imports no torch.

A question gets the commonest answer to similar questions about other images. There are several definitions of
similar, from coarse to fine; if a question has no similar one, the next coarser definition is used.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from silc.eval.vqa_accuracy import commonest

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from silc.eval.datasets import QuestionSet

FOLDS = 10
"""Number of parts of the images; the answers for a part are learnt from the other parts."""
FIRST_WORDS = 2


def question_only(data: QuestionSet) -> Mapping[str, list[str]]:
    """An answer to each question [N], for each definition of similar questions.

    Similar are: all questions; those of the same type (if the set has question types; answer types would reveal the
    answer); those that begin with the same two words; and identical ones.
    """
    asked = [question.lower().split() for question in data.questions]
    ways = {"all": [""] * len(asked)}
    if "question_type" in data.types:
        ways["question type"] = list(data.types["question_type"])
    ways["first two words"] = [" ".join(words[:FIRST_WORDS]) for words in asked]
    ways["whole question"] = [" ".join(words) for words in asked]
    truth = [commonest(answers) for answers in data.answers]
    found, coarser = dict[str, list[str]](), [""] * len(asked)
    for way, alike in ways.items():
        coarser = found[way] = _by_others(alike, truth, data.about, coarser)
    return found


def _by_others(alike: Sequence[str], truth: Sequence[str], about: Sequence[int], coarser: Sequence[str]) -> list[str]:
    """The commonest answer to similar questions about images of other parts; of equally common ones the first seen."""
    counts: dict[str, Counter[str]] = {}
    own: dict[tuple[int, str], Counter[str]] = {}
    for key, answer, image in zip(alike, truth, about, strict=True):
        counts.setdefault(key, Counter())[answer] += 1
        own.setdefault((image % FOLDS, key), Counter())[answer] += 1
    best = {place: (counts[place[1]] - there).most_common(1) for place, there in own.items()}
    told = (best[image % FOLDS, key] for key, image in zip(alike, about, strict=True))
    return [one[0][0] if one else otherwise for one, otherwise in zip(told, coarser, strict=True)]
