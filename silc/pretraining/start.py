"""Starting a run from Python: a recipe, the pairs, a directory, and whatever else is to differ."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from silc import config as configs
from silc import given, rundir
from silc.config import Config
from silc.pretraining import run

if TYPE_CHECKING:
    from pathlib import Path


def train(recipe: Config | str | Path, *, data: str | Path = "", out: str | Path = "", **fields: Any) -> Path:
    """Train a run to its end, as `silc train RECIPE` does.

    Args:
        recipe: a recipe's name, the config.yaml of a run, or a Config.
        data: what `data.train` takes: tar shards, or a folder with a table of captions; without it the recipe's.
        out: directory of the run; without it the Config's.
        fields: any setting by its name, or its path: lr=1e-4, duration="500 steps", **{"model.image.size": 384}.

    Returns:
        The run's directory.

    Raises:
        BadInput: the recipe, a setting, the data, or what `out` or `init` hold cannot be used.
        Preempted: the process, or that of another rank, was asked to stop; what it had is saved.
    """
    base = recipe if isinstance(recipe, Config) else rundir.named(recipe)
    places = {"data.train": str(data), "out": str(out)}
    values = {path: place for path, place in places.items() if place} | fields
    config = configs.override(base, values)
    known = [path for path, _, _ in configs.fields(config)]
    given.say_unread([configs.path_of(name, known) for name in values], config)
    return run.train(config)
