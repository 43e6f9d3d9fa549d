"""Effect of continued training on a model: retrieval on held-out pairs before and after, and a verdict in one line."""

from __future__ import annotations

import math
import statistics
from typing import TYPE_CHECKING, Any

from PIL import Image

from silc.data.pairs import BadSample
from silc.errors import BadInput
from silc.eval.datasets import Lazy, RetrievalSet
from silc.eval.tasks import TASKS, task_name

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np

    from silc.data.pairs import Pairs

NAME = "held_out"
RETRIEVAL = "zeroshot_retrieval"
TASK = task_name(RETRIEVAL, NAME)


def held_out_set(pairs: Pairs, held_out: np.ndarray) -> RetrievalSet:
    """A retrieval set of the pairs with these numbers; broken pairs are left out.

    Raises:
        BadInput: all pairs are broken.
    """
    numbers, captions = [], []
    pairs.read_ahead(held_out.tolist())
    for number in held_out.tolist():
        try:
            captions.append(pairs[number].captions)
        except BadSample:
            continue
        numbers.append(number)
    if not numbers:
        raise BadInput(f"all {len(held_out)} held-out pairs are broken; repair the shards")
    return RetrievalSet(NAME, Lazy(numbers, lambda number: Image.fromarray(pairs[number].pixels)), captions)


def before_and_after(records: Sequence[Mapping[str, Any]]) -> dict[str, list[dict[str, float]]]:
    """For student and teacher: the first and the last metrics in a run's records."""
    found = {}
    for weights in ("student", "teacher"):
        prefix = f"eval/{weights}/{TASK}/"
        each = [{k.removeprefix(prefix): v for k, v in record.items() if k.startswith(prefix)} for record in records]
        metrics = [one for one in each if one]
        if metrics:
            found[weights] = [metrics[0], metrics[-1]]
    return found


def report(records: Sequence[Mapping[str, Any]], num_pairs: int) -> str:
    """Lines of text from a run's records: recall before and after in percent, and the verdict."""
    measured = before_and_after(records)
    student = measured["student"]
    lines = [f"retrieval among {num_pairs} pairs held out of this run, recall in %"]
    lines.append(f"{'':<18}{'before':>8}" + "".join(f"{weights:>9}" for weights in measured))
    for metric in student[0]:
        asked, _, k = metric.partition("_retrieval_recall")
        way = "image by text" if asked == "image" else "text by image"
        values = [student[0][metric], *(last[metric] for _, last in measured.values())]
        lines.append(f"{way + ' ' + k:<18}{100 * values[0]:>8.1f}" + "".join(f"{100 * v:>9.1f}" for v in values[1:]))
    return "\n".join([*lines, verdict(measured, num_pairs)])


def verdict(measured: Mapping[str, Sequence[Mapping[str, float]]], num_pairs: int) -> str:
    """One line: better, worse, or a change too small to tell with so few pairs.

    It compares the student's R@1, averaged over both directions. The bound is two standard errors of the difference of
    two shares of `num_pairs`, as if these were independent. Both are over the same pairs, so the bound is conservative.
    """
    before, after = (_mean_recall(metrics) for metrics in measured["student"])
    blur = 2 * math.sqrt((before * (1 - before) + after * (1 - after)) / num_pairs)
    change = f"R@1 {100 * before:.1f} % -> {100 * after:.1f} %"
    if after - before > blur:
        return f"{change}: better, by more than the error of {num_pairs} pairs (± {100 * blur:.1f})"
    if before - after > blur:
        return f"{change}: WORSE; keep the model that you had, then lower --train.optim.lr or shorten --train.duration"
    return f"{change}: no change beyond the error of {num_pairs} pairs (± {100 * blur:.1f})"


def _mean_recall(metrics: Mapping[str, float]) -> float:
    return statistics.fmean(metrics[name] for name in TASKS[RETRIEVAL].headlines)
