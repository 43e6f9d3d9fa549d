"""Which tasks there are, which are asked for, and their scores on disk.

A task is named after its data set: `<set>-zs`, `<set>-fewshot`, `<set>-retrieval`, `<set>-zs-seg`.
"""

from __future__ import annotations

import difflib
import fnmatch
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from silc.eval.bootstrap import interval
from silc.eval.classify import ZeroShotClassification
from silc.eval.datasets import Lazy
from silc.eval.embed import ALONE
from silc.eval.fewshot import FewShot
from silc.eval.layouts import discover, everything
from silc.eval.prompts import templates
from silc.eval.retrieval import Retrieval
from silc.eval.segment import ZeroShotSegmentation
from silc.images import upright
from silc.types import BadInput, Evaluation

if TYPE_CHECKING:
    from silc.distributed import World
    from silc.eval.cache import Cache
    from silc.eval.config import EvalConfig
    from silc.eval.datasets import Source
    from silc.types import DualEncoder, Evaluator, Record

Progress = Callable[[str, int, int], None]
"""Called with what is going on, and how many of how many are done."""

SUFFIX = {
    "zeroshot_classification": "zs",
    "fewshot_classification": "fewshot",
    "zeroshot_retrieval": "retrieval",
    "zeroshot_segmentation": "zs-seg",
}
"""Of a task's name, by the `task` of its records."""


def silent(what: str, done: int, total: int) -> None:
    """A progress callback that says nothing."""


@dataclass(frozen=True)
class Task:
    """A kind of task on a data set."""

    kind: str  # as in a record
    source: Source[Any]

    @property
    def name(self) -> str:
        """How it is asked for."""
        return task_name(self.kind, self.source.name)

    @property
    def needs(self) -> list[Path]:
        """Files and folders that must be there."""
        return [*self.source.needs, *(self.source.train_needs if self.kind == "fewshot_classification" else ())]

    @property
    def found(self) -> bool:
        """Whether they are."""
        return all(path.exists() for path in self.needs)


def tasks(config: EvalConfig, progress: Progress = silent, world: World = ALONE) -> list[Evaluator]:
    """The evaluators that `config.tasks` names, of the data sets under `config.root`.

    Prompts, file lists and captions of the chosen sets are read here, so what is missing is said before any model runs.
    `progress` hears of every batch, under the task's name. Over several ranks each takes a share of the batches and
    all have the result.

    Raises:
        BadInput: nothing under the root, a task or prompt set that is not there, or a data set with something missing.
    """
    if config.templates:
        templates(config.templates)
    there = {task.name: task for source in discover(config.root) for task in tasks_on(source) if task.found}
    return [evaluator(there[name], config, progress, world) for name in select(config.tasks, list(there))]


def tasks_on(source: Source[Any]) -> list[Task]:
    """The tasks a data set is for; few-shot classification where it has training images."""
    kinds = [f"zeroshot_{source.kind}"] + ["fewshot_classification"] * (source.read_train is not None)
    return [Task(kind, source) for kind in kinds]


def listing(root: str) -> list[Task]:
    """Every task there could be under a root, found or not."""
    return [task for source in everything(Path(root)) for task in tasks_on(source)]


def evaluator(task: Task, config: EvalConfig, progress: Progress = silent, world: World = ALONE) -> Evaluator:
    """The evaluator of one task; reads its data set's lists."""
    bar = partial(progress, task.name)
    data = _held(task.source.read(), config)
    match task.kind:
        case "zeroshot_classification":
            return ZeroShotClassification(task.name, data, config, bar, world)
        case "fewshot_classification":
            assert task.source.read_train is not None
            return FewShot(task.name, _held(task.source.read_train(), config), data, config, bar, world)
        case "zeroshot_retrieval":
            return Retrieval(task.name, data, config, bar, world)
        case _:
            return ZeroShotSegmentation(task.name, data, config, bar, world)


def _held(data: Any, config: EvalConfig) -> Any:
    """A data set with its photographs as they are to be held: turned by EXIF's orientation, or as stored."""
    if config.exif_orientation == "ignore":
        return data
    images = data.images
    return replace(data, images=Lazy(range(len(images)), lambda index: upright(images[index])))


def task_name(kind: str, dataset: str) -> str:
    """Name of the task on a data set; `kind` is the `task` of a record.

    >>> task_name("zeroshot_segmentation", "voc2012")
    'voc2012-zs-seg'
    """
    return f"{dataset}-{SUFFIX[kind]}"


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
    cache: Cache | None = None,
    checksum: str = "",
    world: World = ALONE,
) -> list[Evaluation]:
    """Score every model on every task, task by task.

    Args:
        models: by their weights: student, teacher, pretrained, or the name of a baseline.
        progress: hears of every task done.
        examples_seen, train_flops: what the weights cost; written into every record.
        cache: where results are kept and taken from.
        checksum: of the checkpoint; without it nothing is cached.
        world: the ranks that evaluate together.
    """
    evaluations: list[Evaluation] = []
    total = len(models) * len(evaluators)
    for task in evaluators:
        for weights, model in models.items():
            progress(f"{task.name}, {weights}", len(evaluations), total)
            evaluation = _cached(task, model, weights, cache, checksum, world)
            intervals = {metric: list(interval(scores)) for metric, scores in evaluation.resampled.items()}
            record = replace(evaluation.record, weights=weights, intervals=intervals)
            record = replace(record, examples_seen=examples_seen, train_flops=train_flops)
            evaluations.append(replace(evaluation, record=record))
    progress("evaluated", total, total)
    return evaluations


def _cached(
    task: Evaluator, model: DualEncoder, weights: str, cache: Cache | None, checksum: str, world: World
) -> Evaluation:
    if cache is None:
        return task(model)
    key = cache.key(checksum, weights, task, model)
    found = cache.get(key)
    everyone_has_it = all(world.collect(found is not None))  # all ranks take it, or all compute
    if found is not None and everyone_has_it:
        return found
    evaluation = task(model)
    if world.is_main:
        cache.put(key, evaluation)
    return evaluation


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
