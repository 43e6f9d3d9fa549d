"""Experiment trackers: told every record of a run, asked for by name, and named where they are not installed."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from silc.config import Config
from silc.errors import BadInput
from silc.pretraining import run
from silc.training.log import history


class Library(ModuleType):
    """The part of wandb's and trackio's interface that is used."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.calls: list[tuple[str, Any]] = []

    def init(self, *, project: str, name: str, config: dict[str, Any], resume: str, **where: str) -> None:
        self.calls.append(("init", (project, name, config["train"]["batch_size"], resume, sorted(where))))

    def log(self, metrics: dict[str, float], *, step: int) -> None:
        self.calls.append(("log", metrics | {"step": step}))

    def finish(self) -> None:
        self.calls.append(("finish", None))


@pytest.mark.parametrize(("name", "where"), [("wandb", ["dir", "id"]), ("trackio", [])])
def test_a_tracker_is_told_every_record(
    small: Callable[..., Config], name: str, where: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = Library(name)
    monkeypatch.setitem(sys.modules, name, library)
    run.train(small("clip", duration="3 steps", trackers=(name,), out=tmp_path / "run"))
    assert library.calls[0] == ("init", ("silc", "run", 16, "allow", where))
    assert library.calls[-1] == ("finish", None)
    assert [what for what, _ in library.calls] == ["init", "log", "log", "log", "finish"]
    assert [record for what, record in library.calls if what == "log"] == history(tmp_path / "run")


def test_a_tracker_that_is_not_installed(
    small: Callable[..., Config], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    config = small("clip", duration="1 steps", trackers=("wandb",), out=tmp_path / "run")
    with pytest.raises(
        BadInput, match=r"train.trackers needs wandb, which is not installed: `pip install -e '\.\[log\]'`"
    ):
        run.train(config)
    # Nothing was lost: without it the run goes on.
    run.train(replace(config, resume="auto", train=replace(config.train, trackers=())))
