"""CIDEr-D, BLEU and ROUGE-L of captions, as pycocoevalcap computes them, without its Java. Imports no torch."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from silc.eval.caption_tokens import words

ORDERS = 4
"""n-grams of 1 to this many words are counted."""
SIGMA = 6.0
"""CIDEr-D: width of the Gaussian that lowers the score if a caption's length differs from its reference's."""
BETA = 1.2
"""ROUGE-L: how much more recall counts than precision."""
TINY, SMALL = 1e-15, 1e-9
"""BLEU: smoothing that is added to numerators (TINY) and to denominators (SMALL)."""
Words = Sequence[str]
Grams = Counter[tuple[str, ...]]


@dataclass(frozen=True)
class CaptionScores:
    """Scores of N captions, from 0 to 1, CIDEr from 0 to 10. Papers write them times 100."""

    metrics: Mapping[str, float]
    """Of all captions together: `cider`, `bleu_1` to `bleu_4` of the corpus, `rouge_l`."""
    each: Mapping[str, Sequence[float]]
    """The same scores for each caption [N]."""


def caption_scores(captions: Sequence[str], references: Sequence[Sequence[str]]) -> CaptionScores:
    """Scores of captions, one per image, against the references of each image.

    CIDEr weights a word by the number of images that have it in their references. So CIDEr values of two sets of images
    cannot be compared, and CIDEr of a set of one image is 0.
    """
    found = [words(caption) for caption in captions]
    truth = [[words(reference) for reference in own] for own in references]
    own_cider, own_rouge = cider_d(found, truth), [rouge_l(*pair) for pair in zip(found, truth, strict=True)]
    total, own_bleu = bleu(found, truth)
    each = {"cider": own_cider, "rouge_l": own_rouge}
    each |= {f"bleu_{n}": [own[n - 1] for own in own_bleu] for n in range(1, ORDERS + 1)}
    metrics = {name: math.fsum(each[name]) / max(1, len(found)) for name in ("cider", "rouge_l")}
    return CaptionScores(metrics | {f"bleu_{n}": total[n - 1] for n in range(1, ORDERS + 1)}, each)


def grams(text: Words) -> list[Grams]:
    """Counts of the n-grams of a text; entry n - 1 has those of n words."""
    return [Counter(zip(*(text[start:] for start in range(n)), strict=False)) for n in range(1, ORDERS + 1)]


def cider_d(captions: Sequence[Words], references: Sequence[Sequence[Words]]) -> list[float]:
    """CIDEr-D of each caption, times 10 as in the reference code. Papers write this value times 100.

    Lengths are counted in word pairs (2-grams), as in the reference code.
    """
    counted = [[grams(text) for text in own] for own in references]
    within = Counter(gram for own in counted for gram in {gram for text in own for n in text for gram in n})
    images = math.log(max(1, len(references)))
    scores = []
    for caption, own in zip(captions, counted, strict=True):
        mine = _weighed(grams(caption), within, images)
        each = [_alike(mine, _weighed(text, within, images)) for text in own]
        scores.append(10 * math.fsum(each) / max(1, len(each)))
    return scores


@dataclass(frozen=True)
class _Weighed:
    """The n-grams of a text with their tf-idf weights."""

    vectors: Sequence[Mapping[tuple[str, ...], float]]
    norms: Sequence[float]
    length: int


def _weighed(counts: Sequence[Grams], within: Grams, images: float) -> _Weighed:
    vectors = [
        {gram: number * (images - math.log(max(1, within[gram]))) for gram, number in own.items()} for own in counts
    ]
    norms = [math.sqrt(math.fsum(weight**2 for weight in own.values())) for own in vectors]
    return _Weighed(vectors, norms, counts[1].total())


def _alike(caption: _Weighed, reference: _Weighed) -> float:
    """Cosine of clipped tf-idf weights, averaged over n, and lowered if the lengths differ."""
    total = 0.0
    for n in range(ORDERS):
        mine, theirs = caption.vectors[n], reference.vectors[n]
        shared = math.fsum(min(weight, theirs[gram]) * theirs[gram] for gram, weight in mine.items() if gram in theirs)
        norms = caption.norms[n] * reference.norms[n]
        total += shared / norms if norms else shared
    return total / ORDERS * math.exp(-((caption.length - reference.length) ** 2) / (2 * SIGMA**2))


def bleu(captions: Sequence[Words], references: Sequence[Sequence[Words]]) -> tuple[list[float], list[list[float]]]:
    """BLEU-1 to BLEU-4 of the corpus and of each caption; the reference length is the one closest to the caption's."""
    right, guessed, length, wanted = [0] * ORDERS, [0] * ORDERS, 0, 0
    each = []
    for caption, own in zip(captions, references, strict=True):
        most: list[Grams] = [Counter() for _ in range(ORDERS)]
        for reference in own:
            most = [kept | counts for kept, counts in zip(most, grams(reference), strict=True)]
        hits = [(counts & kept).total() for counts, kept in zip(grams(caption), most, strict=True)]
        tries = [max(0, len(caption) - n) for n in range(ORDERS)]
        closest = min((abs(len(reference) - len(caption)), len(reference)) for reference in own)[1]
        each.append(_bleu(hits, tries, len(caption), closest))
        right = [a + b for a, b in zip(right, hits, strict=True)]
        guessed = [a + b for a, b in zip(guessed, tries, strict=True)]
        length, wanted = length + len(caption), wanted + closest
    return _bleu(right, guessed, length, wanted), each


def _bleu(right: Sequence[int], guessed: Sequence[int], length: int, wanted: int) -> list[float]:
    ratio = (length + TINY) / (wanted + SMALL)
    brevity = math.exp(1 - 1 / ratio) if ratio < 1 else 1.0
    product, found = 1.0, []
    for n in range(ORDERS):
        product *= (right[n] + TINY) / (guessed[n] + SMALL)
        found.append(product ** (1 / (n + 1)) * brevity)
    return found


def rouge_l(caption: Words, references: Sequence[Words]) -> float:
    """ROUGE-L of a caption: the best precision and the best recall over its references."""
    common = [_longest_common(caption, reference) for reference in references]
    precision = max(common, default=0) / max(1, len(caption))
    recall = max((hits / max(1, len(own)) for hits, own in zip(common, references, strict=True)), default=0.0)
    if not precision or not recall:
        return 0.0
    return (1 + BETA**2) * precision * recall / (recall + BETA**2 * precision)


def _longest_common(one: Words, other: Words) -> int:
    """Length of the longest common subsequence."""
    row = [0] * (len(other) + 1)
    for word in one:
        before = row
        row = [0]
        for place, theirs in enumerate(other):
            row.append(before[place] + 1 if word == theirs else max(before[place + 1], row[place]))
    return row[-1]
