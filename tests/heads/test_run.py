"""Scores of a head along its training."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from silc.distributed import World
from silc.errors import BadInput, Preempted
from silc.heads.run import HeadScores
from silc.records import Evaluation, Record


@dataclass
class Task:
    """An evaluator that says whether it was given a module in use; `fault` is what it raises."""

    name: str
    fault: Exception | None = None
    seen: list[bool] = field(default_factory=list)

    def __call__(self, module: nn.Module) -> Evaluation:
        if self.fault is not None:
            raise self.fault
        self.seen.append(not module.training)
        return Evaluation(Record("set", "knn_classification", {"acc1": 0.5}, {}, {}))


def scores(module: nn.Module, *tasks: Any, tell: Callable[[str], None] = pytest.fail) -> HeadScores:
    """Of a head, which is sharded: a whole copy is a new module, in training, with weights that are drawn."""
    return HeadScores("kind", module, lambda: nn.Linear(2, 2), lambda whole: whole, tasks, World(), tell)


def test_a_whole_copy_is_in_use_while_it_is_scored_and_draws_nothing_of_the_trainings() -> None:
    module, task = nn.Linear(2, 2), Task("one")
    before = torch.random.get_rng_state()
    found = scores(module, task).during_training()
    assert list(found.values()) == [0.5]
    assert task.seen == [True]
    assert module.training
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_task_that_cannot_be_scored_costs_its_scores_alone(tmp_path: Path) -> None:
    told: list[str] = []
    watched = scores(nn.Linear(2, 2), Task("bad", BadInput("1.png is gone")), Task("good"), tell=told.append)
    assert len(watched.during_training()) == 1
    assert told == ["bad is not scored: 1.png is gone"]
    first, last = watched.summary(tmp_path)
    assert first.startswith("not scored during training: bad; ")
    assert last == f"done: {tmp_path}"
    assert scores(nn.Linear(2, 2), Task("good")).summary(tmp_path) == [last]


def test_what_stops_the_scores_leaves_the_module_in_training() -> None:
    module = nn.Linear(2, 2)
    with pytest.raises(Preempted):
        scores(module, Task("one", Preempted())).during_training()
    assert module.training


def test_the_last_weights_are_scored_once() -> None:
    """A run that is scored along its training is scored at its last step; one that is at its end already, once more."""
    task = Task("one")
    watched = scores(nn.Linear(2, 2), task)
    assert watched.before_and_after()
    assert watched.during_training()
    assert watched.before_and_after() == {}
    assert len(task.seen) == 2
    assert scores(nn.Linear(2, 2)).before_and_after() == {}
