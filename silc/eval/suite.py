"""Which tasks there are, which are asked for, and their scores on disk.

A task is named after its data set: `<set>-zs`, `<set>-retrieval`, `<set>-zs-seg`.
"""

from __future__ import annotations

import difflib
import fnmatch
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from typing import TYPE_CHECKING

from silc.eval.classify import ZeroShotClassification
from silc.eval.datasets import Found, discover, read_classification, read_retrieval, read_segmentation
from silc.eval.prompts import templates
from silc.eval.retrieval import Retrieval
from silc.eval.segment import ZeroShotSegmentation
from silc.types import BadInput, Evaluation

if TYPE_CHECKING:
    from pathlib import Path

    from silc.eval.config import EvalConfig
    from silc.types import DualEncoder, Evaluator, Record

Progress = Callable[[str, int, int], None]
"""Called with what is going on, and how many of how many are done."""

SUFFIX = {"classification": "zs", "retrieval": "retrieval", "segmentation": "zs-seg"}


def silent(what: str, done: int, total: int) -> None:
    """A progress callback that says nothing."""


def tasks(config: EvalConfig, progress: Progress = silent) -> list[Evaluator]:
    """The evaluators that `config.tasks` names, of the data sets under `config.root`.

    Prompts, file lists and captions of the chosen sets are read here, so what is missing is said before any model runs.
    `progress` hears of every batch, under the task's name.

    Raises:
        BadInput: nothing under the root, a task or prompt set that is not there, or a data set with something missing.
    """
    if config.templates:
        templates(config.templates)
    there = {task_name(found.kind, found.name): found for found in discover(config.root)}
    return [evaluator(there[name], config, progress) for name in select(config.tasks, list(there))]


def evaluator(found: Found, config: EvalConfig, progress: Progress = silent) -> Evaluator:
    """The evaluator of one data set on disk."""
    name = task_name(found.kind, found.name)
    bar = partial(progress, name)
    if found.kind == "classification":
        return ZeroShotClassification(name, read_classification(found.path), config, bar)
    if found.kind == "retrieval":
        return Retrieval(name, read_retrieval(found.path), config, bar)
    return ZeroShotSegmentation(name, read_segmentation(found.path), config, bar)


def task_name(kind: str, dataset: str) -> str:
    """Name of the task on a data set; `kind` is a folder's name or the `task` of a record.

    >>> task_name("segmentation", "voc2012"), task_name("zeroshot_segmentation", "voc2012")
    ('voc2012-zs-seg', 'voc2012-zs-seg')
    """
    return f"{dataset}-{SUFFIX[kind.removeprefix('zeroshot_')]}"


def select(asked: str, there: Sequence[str]) -> list[str]:
    """The task names that a comma-separated list of names and globs chooses, in the order of `there`.

    Raises:
        BadInput: a name or glob that matches nothing, with the nearest name.

    >>> select("*-zs, a-retrieval", ["a-zs", "b-zs", "a-retrieval", "b-retrieval"])
    ['a-zs', 'b-zs', 'a-retrieval']
    """
    chosen: set[str] = set()
    for pattern in (part.strip() for part in asked.split(",")):
        matching = list(there) if pattern == "all" else fnmatch.filter(there, pattern)
        if not matching:
            close = difflib.get_close_matches(pattern, there, n=1, cutoff=0.4)
            hint = f"did you mean '{close[0]}'? " if close else ""
            raise BadInput(f"no task '{pattern}'; {hint}There are: {', '.join(there)} (or 'all')")
        chosen.update(matching)
    return [name for name in there if name in chosen]


def run(
    models: Mapping[str, DualEncoder],
    evaluators: Sequence[Evaluator],
    progress: Progress = silent,
    *,
    examples_seen: int | None = None,
    train_flops: float | None = None,
) -> list[Evaluation]:
    """Score every model on every task, task by task.

    Args:
        models: by their weights: student, teacher, pretrained, or the name of a baseline.
        progress: hears of every task done.
        examples_seen, train_flops: what the weights cost; written into every record.
    """
    evaluations: list[Evaluation] = []
    total = len(models) * len(evaluators)
    for task in evaluators:
        for weights, model in models.items():
            progress(f"{task.name}, {weights}", len(evaluations), total)
            evaluation = task(model)
            record = replace(evaluation.record, weights=weights, examples_seen=examples_seen, train_flops=train_flops)
            evaluations.append(replace(evaluation, record=record))
    progress("evaluated", total, total)
    return evaluations


def scalars(evaluations: Iterable[Evaluation]) -> dict[str, float]:
    """Every score under `eval/<weights>/<task>/<metric>`: how metrics.jsonl keeps scores along training."""
    return {
        f"eval/{record.weights}/{task_name(record.task, record.dataset)}/{metric}": value
        for record in (evaluation.record for evaluation in evaluations)
        for metric, value in record.metrics.items()
    }


def write_scores(path: Path, records: Iterable[Record]) -> None:
    """Write a JSON list of records: CLIP_benchmark's fields, and chance, protocol and cost."""
    path.write_text(json.dumps([asdict(record) for record in records], indent=2, allow_nan=False) + "\n")
