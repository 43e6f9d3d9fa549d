"""Which tasks there are under a root, and which are asked for. Imports no torch.

A task is named after its data set: `<set>-zs`, `<set>-fewshot`, `<set>-retrieval`, `<set>-zs-seg`; the probes are
`<set>-knn`, `<set>-linear`, `<set>-linear-seg`.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from silc.errors import BadInput
from silc.eval.layouts import discover, everything
from silc.eval.prompts import templates
from silc.settings import nearest

if TYPE_CHECKING:
    from silc.eval.config import EvalConfig
    from silc.eval.datasets import Source


class Kind(NamedTuple):
    """What is said of a kind of task."""

    end: str
    """Of a task's name."""
    heading: str
    headlines: tuple[str, ...]
    """Metrics that are shown where there is room for few."""


RECALL = ("text_retrieval_recall@1", "image_retrieval_recall@1")
KINDS = {
    "zeroshot_classification": Kind("zs", "Zero-shot classification", ("acc1",)),
    "fewshot_classification": Kind("fewshot", "Few-shot classification", ("1shot_acc1", "5shot_acc1", "10shot_acc1")),
    "zeroshot_retrieval": Kind("retrieval", "Image-text retrieval", RECALL),
    "zeroshot_segmentation": Kind("zs-seg", "Zero-shot segmentation", ("miou",)),
    "knn_classification": Kind("knn", "k nearest neighbours", ("acc1",)),
    "linear_probe_classification": Kind("linear", "Linear classification of frozen features", ("acc1",)),
    "linear_probe_segmentation": Kind("linear-seg", "Linear segmentation of frozen patches", ("miou",)),
}
"""By the `task` of a record."""


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
        return [*self.source.needs, *(() if self.kind.startswith("zeroshot") else self.source.train_needs)]

    @property
    def found(self) -> bool:
        """Whether they are."""
        return all(path.exists() for path in self.needs)


def asked_for(config: EvalConfig) -> list[Task]:
    """The tasks that `config.tasks` names, of the data sets under `config.root`; no list of theirs is read.

    Raises:
        BadInput: nothing under the root, or a task or prompt set that is not there.
    """
    if config.templates:
        templates(config.templates)
    there = {task.name: task for source in discover(config.root) for task in tasks_on(source) if task.found}
    return [there[name] for name in select(config.tasks, list(there))]


def probes_asked_for(root: str, asked: str) -> list[Task]:
    """The probes that a comma-separated list of names and globs chooses, of the data sets under a root.

    Raises:
        BadInput: nothing under the root, a task that is not there, or no training images for it.
    """
    probes = [task for source in discover(root) for task in probes_on(source)]
    there = {task.name: task for task in probes if task.found}
    without = [task for task in probes if not task.found and (task.name in asked or not there)]
    if without:
        missing = next(path for path in without[0].needs if not path.exists())
        raise BadInput(
            f"{without[0].name} learns from labelled training images, and {missing} is not there; add them as "
            "`silc eval --list` shows, or leave it out"
        )
    if not there:
        raise BadInput(f"{root} holds no data set to classify or segment; `silc eval --list` shows the layouts")
    return [there[name] for name in select(asked, list(there))]


def tasks_on(source: Source[Any]) -> list[Task]:
    """The tasks a data set is for; few-shot classification where it has training images."""
    few = source.kind == "classification" and source.read_train is not None
    return [Task(kind, source) for kind in (f"zeroshot_{source.kind}", *["fewshot_classification"] * few)]


def probes_on(source: Source[Any]) -> list[Task]:
    """The probes that a data set's training images are for."""
    linear = f"linear_probe_{source.kind}"
    kinds = {"classification": ["knn_classification", linear], "segmentation": [linear]}.get(source.kind, [])
    return [Task(kind, source) for kind in kinds if source.read_train is not None]


def listing(root: str) -> list[Task]:
    """Every task there could be under a root, found or not."""
    return [task for source in everything(Path(root)) for task in (*tasks_on(source), *probes_on(source))]


def task_name(kind: str, dataset: str) -> str:
    """Name of the task on a data set; `kind` is the `task` of a record.

    >>> task_name("zeroshot_segmentation", "voc2012")
    'voc2012-zs-seg'
    """
    return f"{dataset}-{KINDS[kind].end}"


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
            hint = nearest(pattern, there) or ";"
            raise BadInput(f"no task '{pattern}'{hint} There are: {', '.join(there)} (or 'all')")
        chosen.update(matching)
    return [name for name in there if name in chosen]
