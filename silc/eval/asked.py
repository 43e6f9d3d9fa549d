"""Find the tasks under a root folder, and choose those that the user asks for. Imports no torch."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from silc.errors import BadInput
from silc.eval.layouts import discover, everything
from silc.eval.prompts import templates
from silc.eval.tasks import TASKS, task_name
from silc.settings import nearest

if TYPE_CHECKING:
    from silc.eval.config import EvalConfig
    from silc.eval.datasets import Source


@dataclass(frozen=True)
class Task:
    """A kind of task on a data set."""

    kind: str  # as in a record
    source: Source[Any]

    @property
    def name(self) -> str:
        """Name by which a user asks for the task."""
        return task_name(self.kind, self.source.name)

    @property
    def needs(self) -> list[Path]:
        """Files and folders that the task needs."""
        return [*self.source.needs, *(self.source.train_needs if TASKS[self.kind].trains else ())]

    @property
    def found(self) -> bool:
        """Whether all files and folders that the task needs exist."""
        return all(path.exists() for path in self.needs)


def asked_for(config: EvalConfig) -> list[Task]:
    """The tasks that `config.tasks` names, on the data sets under `config.root`; reads no file lists of the sets.

    Raises:
        BadInput: no data set under the root, an unknown task or prompt set, or a data set that lacks files.
    """
    if config.templates:
        templates(config.templates)
    found = [task for source in discover(config.root) for task in tasks_on(source) if task.found]
    known = [task for source in everything(Path(config.root)) for task in tasks_on(source)]
    config = replace(config, tasks=spelt_out(config.tasks, known))
    _refuse_missing(config, [task.name for task in found])
    return _chosen(config.tasks, found)


def spelt_out(asked: str, known: Sequence[Task]) -> str:
    """The list with full task names: a data set with only one task may be given by its name, vqav2 for vqav2-vqa."""
    sets: dict[str, list[str]] = {}
    for task in known:
        sets.setdefault(task.source.name, []).append(task.name)
    names = (name.strip() for name in asked.split(","))
    return ",".join(sets[name][0] if len(sets.get(name, ())) == 1 else name for name in names)


def _refuse_missing(config: EvalConfig, there: Sequence[str]) -> None:
    """Raise `BadInput` if a known task is asked for by name and its data is missing; say what is missing."""
    asked = {name.strip() for name in config.tasks.split(",")} - {*there}
    known = (task for source in everything(Path(config.root)) for task in tasks_on(source) if asked)
    for task in (task for task in known if task.name in asked):
        missing = next(path for path in task.needs if not path.exists())
        name = task.source.prepared
        made = f"; `silc data prepare {name}` makes it from the release" if name else ""
        raise BadInput(
            f"{task.name}: {missing} is missing{made}; `silc eval --list --root {config.root}` shows what is there"
        )


def probes_asked_for(root: str, asked: str) -> list[Task]:
    """The probes that a comma-separated list of names and globs chooses, on the data sets under a root.

    Raises:
        BadInput: no data set under the root, an unknown task, or a task without training images.
    """
    probes = [task for source in discover(root) for task in tasks_on(source, probes=True)]
    found = [task for task in probes if task.found]
    if without := next((task for task in probes if not task.found and (task.name in asked or not found)), None):
        missing = next(path for path in without.needs if not path.exists())
        raise BadInput(
            f"{without.name} learns from labelled training images, and {missing} does not exist; add these images "
            "as `silc eval --list` shows, or leave the task out"
        )
    if not found:
        raise BadInput(f"{root} holds no data set to classify or segment; `silc eval --list` shows the layouts")
    return _chosen(asked, found)


def _chosen(asked: str, found: Sequence[Task]) -> list[Task]:
    by_name = {task.name: TASKS[task.kind].suffix for task in found if TASKS[task.kind].by_name}
    names = select(asked, [task.name for task in found], by_name)
    return [task for task in found if task.name in names]


def tasks_on(source: Source[Any], *, probes: bool = False) -> list[Task]:
    """The tasks, or the probes, that fit a data set; tasks that train only if the set has training images."""
    return [
        Task(name, source)
        for name, kind in TASKS.items()
        if kind.data == source.kind and bool(kind.evaluator) != probes and (source.read_train or not kind.trains)
    ]


def listing(root: str) -> list[Task]:
    """Every known task and probe under a root, whether its data is found or not."""
    return [task for one in everything(Path(root)) for task in (*tasks_on(one), *tasks_on(one, probes=True))]


def select(asked: str, there: Sequence[str], by_name: Mapping[str, str] = MappingProxyType({})) -> list[str]:
    """The task names that a comma-separated list of names and globs chooses, in the order of `there`.

    Args:
        by_name: suffixes of some tasks, by task name; only a pattern that ends in the suffix chooses such a task.

    Raises:
        BadInput: a name or glob that matches nothing; the message gives the nearest name.

    >>> select("*-zs, a-retrieval", ["a-zs", "b-zs", "a-retrieval", "b-retrieval"])
    ['a-zs', 'b-zs', 'a-retrieval']
    """
    chosen: set[str] = set()
    for pattern in (name.strip() for name in asked.split(",")):
        matching = list(there) if pattern == "all" else fnmatch.filter(there, pattern)
        matching = [name for name in matching if name not in by_name or pattern.endswith(by_name[name])]
        if not matching:
            hint = nearest(pattern, there) or ";"
            raise BadInput(f"no task '{pattern}'{hint} There are: {', '.join(there)} (or 'all')")
        chosen.update(matching)
    return [name for name in there if name in chosen]
