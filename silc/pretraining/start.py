"""Start a run from Python: from a recipe, or from an existing model with defaults that do not harm it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from silc import config as configs
from silc import given, recipes, rundir
from silc.config import Config, Trained
from silc.data.sources import open_pairs
from silc.errors import BadInput
from silc.kinds import KINDS
from silc.pretraining import origin, run

if TYPE_CHECKING:
    from collections.abc import Callable


def train(recipe: Trained | str | Path, *, data: str | Path | None = None, out: str | Path = "", **fields: Any) -> Path:
    """Train a run to its end, as `silc train RECIPE` does.

    Args:
        recipe: the name of a recipe or a head, the config.yaml of a run, or a configuration.
        data: what `data.train` takes: tar shards, or a folder with a table of captions; by default the recipe's.
        out: directory of the run; by default the configuration's.
        fields: any setting by its name, or its path: lr=1e-4, duration="500 steps", **{"model.image.size": 384}.

    Returns:
        The run's directory.

    Raises:
        BadInput: the recipe, a setting, the data, or what `out` or `init` hold cannot be used.
        Preempted: this process or another rank's was asked to stop; its progress is saved.
    """
    base = rundir.named(recipe) if isinstance(recipe, str | Path) else recipe
    if data is not None and not str(data).strip():
        raise BadInput("data is given and empty; name tar shards or a folder, or leave it out")
    places = {"data.train": str(data or ""), "out": str(out)}
    values = {path: place for path, place in places.items() if place} | fields
    config = configs.override(base, values)
    given.say_unread(values, config)
    trained: Path = KINDS[config.kind].find("train")(config)
    return trained


def finetune(init: str | Path, data: str, out: str | Path, *, mode: str = "late", **fields: Any) -> Path:
    """Continue a model on image-text pairs; prints retrieval on held-out pairs before and after.

    Args:
        init: the model: a run's directory, or whatever else `silc.load` takes (hf:ORG/NAME, open_clip:NAME/TAG, ...).
        data: tar shards, as in `data.train`.
        out: directory of the new run.
        mode: late (SILC as in SigLIP 2's last stage), silc (the paper's, from the first step on), contrastive.
        fields: any setting by its name, or its path: lr=1e-5, duration="500 steps", **{"model.image.size": 384}.

    Returns:
        The run's directory.

    Raises:
        BadInput: the model, the data or a setting cannot be used.
    """
    values = {"data.train": data, "out": str(out)} | fields
    config = configured(str(init), mode, lambda base: configs.override(base, values))
    given.say_unread(fields, config)
    return run.train(config)


def configured(init: str, mode: str, adjust: Callable[[Config], Config]) -> Config:
    """The configuration of a continued run.

    Args:
        adjust: applies the user's settings to the defaults; called twice, because some defaults depend on the data.
    """
    source = origin.find(init)
    theirs = source.preprocess
    pixels = configs.PixelsConfig(theirs.mean, theirs.std, theirs.resize, theirs.interpolation)
    base = recipes.continued(init, source.model, pixels, source.contrastive, mode)
    asked = adjust(base)
    pairs = open_pairs(asked.data, seed=asked.train.seed)
    return adjust(recipes.fitted(base, size=asked.model.image.size, num_pairs=len(pairs), has_head=source.has_head))
