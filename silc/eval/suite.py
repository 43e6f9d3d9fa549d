"""Make the evaluators of the chosen tasks, run them on models, and write the scores to disk."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from silc.durable import write_whole
from silc.errors import BadInput
from silc.eval.asked import Task, asked_for
from silc.eval.bootstrap import interval
from silc.eval.datasets import Lazy
from silc.eval.embed import ALONE, shared, silent
from silc.eval.tasks import TASKS, task_name
from silc.images import upright

if TYPE_CHECKING:
    from silc.distributed import World
    from silc.encoder import DualEncoder
    from silc.eval.cache import Cache
    from silc.eval.config import EvalConfig
    from silc.records import Evaluation, Evaluator, Record

OnProgress = Callable[[str, int, int], None]
"""Callback (what, done, total): what is running, and how many are done, of how many."""


Failed = Callable[[str, str, BadInput], None]
"""Callback (task, weights, error) for a task that cannot be scored; weights "": all. Every rank makes the same call."""


def refuse(task: str, weights: str, error: BadInput) -> None:
    """Raise the error: one task that cannot be scored ends the evaluation."""
    raise error


def tasks(
    config: EvalConfig, progress: OnProgress = silent, world: World = ALONE, failed: Failed = refuse
) -> list[Evaluator]:
    """The evaluators that `config.tasks` names, of the data sets under `config.root`.

    Prompts, file lists and captions of the chosen sets are read here, so missing data is reported before any model
    runs. `progress` is called for every batch, with the task's name. Several ranks share the batches, and all get the
    result. `failed` is called for a data set that lacks something on any rank, or does not allow a setting. If `failed`
    returns, the other tasks are kept, also those of the same set.

    Raises:
        BadInput: no data set under the root, an unknown task or prompt set, or what `failed` raises.
    """
    read, wrong = dict[tuple[str, int], "Evaluator"](), dict[tuple[str, int], str]()
    for task in asked_for(config):
        try:
            sets = sets_of(task, config)
        except BadInput as error:
            wrong[task.name, 0] = str(error)
            continue
        for number, own in enumerate(variants(config, task.kind)):
            try:
                read[task.name, number] = evaluator(task, own, sets, progress, world)
            except BadInput as error:
                wrong[task.name, number] = str(error)
    told: dict[tuple[str, int], str] = {}
    for theirs in world.collect(wrong):
        told |= theirs
    for name, why in dict.fromkeys((name, why) for (name, _), why in told.items()):  # once, not for each variant
        failed(name, "", BadInput(why))
    return [one for variant, one in read.items() if variant not in told]


def variants(config: EvalConfig, kind: str) -> list[EvalConfig]:
    """A configuration for each combination of the values that settings list for a kind of task."""
    fields = TASKS[kind].varies.split()
    listed = [dict.fromkeys(value.strip() for value in getattr(config, field).split(",")) for field in fields]
    return [replace(config, **dict(zip(fields, values, strict=True))) for values in product(*listed)]


def sets_of(task: Task, config: EvalConfig) -> dict[str, Any]:
    """The data sets of a task: `data`, and `train` if the task learns from a set."""
    kind, source = TASKS[task.kind], task.source
    reads = {"data": source.read} | ({"train": source.read_train} if kind.trains and source.read_train else {})
    return {name: held(read(), config.exif_orientation) for name, read in reads.items()}


def evaluator(
    task: Task, config: EvalConfig, sets: Mapping[str, Any], progress: OnProgress = silent, world: World = ALONE
) -> Evaluator:
    """The evaluator of one task on the data sets from `sets_of`."""
    more = {name: data for name, data in sets.items() if name != "data"}
    return TASKS[task.kind].load()(task.name, sets["data"], config, partial(progress, task.name), world, **more)


def held(data: Any, orientation: Literal["ignore", "apply"]) -> Any:
    """A data set with its photographs rotated by their EXIF orientation, or as they are stored."""
    if orientation == "ignore":
        return data
    images = data.images
    return replace(data, images=Lazy(range(len(images)), lambda index: upright(images[index])))


def run(
    models: Mapping[str, DualEncoder],
    evaluators: Sequence[Evaluator],
    progress: OnProgress = silent,
    *,
    examples_seen: int | None = None,
    train_flops: float | None = None,
    cache: Cache | None = None,
    world: World = ALONE,
    failed: Failed = refuse,
) -> list[Evaluation]:
    """Score every model on every task, task by task.

    Args:
        models: by their weights: student, teacher, pretrained, or the name of a baseline.
        progress: called for every task.
        examples_seen, train_flops: training cost of the weights; written into every record.
        cache: stores the checkpoint's results, which later calls read.
        world: the ranks that evaluate together.
        failed: called for a task that cannot be scored; if it returns, the other tasks are scored.

    Raises:
        BadInput: what `failed` raises.
    """
    evaluations: list[Evaluation] = []
    total = len(models) * len(evaluators)
    for number, (task, (weights, model)) in enumerate(product(evaluators, models.items())):
        progress(", ".join(filter(None, (task.name, weights, getattr(task, "way", "")))), number, total)
        try:
            evaluation = _cached(task, model, weights, cache, world)
        except BadInput as error:
            failed(task.name, weights, error)
            continue
        evaluation = with_intervals(evaluation, weights)
        record = replace(evaluation.record, examples_seen=examples_seen, train_flops=train_flops)
        evaluations.append(replace(evaluation, record=record))
    progress("evaluated", total, total)
    return evaluations


def with_intervals(evaluation: Evaluation, weights: str) -> Evaluation:
    """The evaluation with `weights` and 95 % intervals in its record."""
    intervals = {metric: list(interval(scores)) for metric, scores in evaluation.resampled.items()}
    return replace(evaluation, record=replace(evaluation.record, weights=weights, intervals=intervals))


def _cached(task: Evaluator, model: DualEncoder, weights: str, cache: Cache | None, world: World) -> Evaluation:
    if cache is None:
        return task(model)
    key = shared(lambda: cache.key(weights, task, model), world)[world.rank]
    found = cache.get(key)
    everyone_has_it = all(world.collect(found is not None))  # all ranks take it, or all compute
    if found is not None and everyone_has_it:
        return found
    evaluation = task(model)
    if world.is_main:
        cache.put(key, evaluation)
    return evaluation


def scalars(evaluations: Iterable[Evaluation]) -> dict[str, float]:
    """Every score under `eval/<weights>/<task>/<metric>`, the key of scores during training in metrics.jsonl."""
    return {
        f"eval/{record.weights}/{task_name(record.task, record.dataset)}/{metric}": value
        for record in (evaluation.record for evaluation in evaluations)
        for metric, value in record.metrics.items()
    }


def write_scores(path: Path, records: Iterable[Record]) -> None:
    """Write a JSON list of records: CLIP_benchmark's fields, and chance, protocol and cost."""
    write_whole(path, json.dumps([asdict(record) for record in records], indent=2, allow_nan=False) + "\n")
