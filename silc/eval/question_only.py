"""Answers without images: how far a set's questions alone lead. Imports no torch.

The answer to a question is the commonest one to questions like it about other images. Which questions are alike is
said in several ways, from coarse to fine; where a question has none like it, the next coarser way answers.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from silc.eval.vqa_accuracy import commonest

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from silc.eval.datasets import QuestionSet

FOLDS = 10
"""Parts of the images; the answers of a part are learnt from the others."""
FIRST_WORDS = 2


def question_only(data: QuestionSet) -> Mapping[str, list[str]]:
    """An answer to each question [N] by each way of saying which questions are alike.

    The ways are: all questions, those of one type (where the set has types of questions; types of answers would tell
    of the answer), those that begin with the same two words, and those that are the same.
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
    """The commonest answer to questions alike about images of other parts; of equals the one that was met first."""
    counts: dict[str, Counter[str]] = {}
    own: dict[tuple[int, str], Counter[str]] = {}
    for key, answer, image in zip(alike, truth, about, strict=True):
        counts.setdefault(key, Counter())[answer] += 1
        own.setdefault((image % FOLDS, key), Counter())[answer] += 1
    best = {place: (counts[place[1]] - there).most_common(1) for place, there in own.items()}
    told = (best[image % FOLDS, key] for key, image in zip(alike, about, strict=True))
    return [one[0][0] if one else otherwise for one, otherwise in zip(told, coarser, strict=True)]
