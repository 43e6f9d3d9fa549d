"""A run of TCL, and its model."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from silc import checks
from silc.errors import BadInput
from silc.heads import pairs
from silc.heads.tcl.config import TclConfig
from silc.heads.tcl.model import TclLearner, TclModel, TclSchedule
from silc.heads.tcl.objective import SCALE_MAX, Tcl
from silc.training.config import steps_of
from silc.training.fit import fit

if TYPE_CHECKING:
    from silc.heads.tcl.head import TclHead
    from silc.predict import Model
    from silc.training.schedules import LearningRate


def _schedule(rate: LearningRate, config: TclConfig, steps_per_epoch: int) -> TclSchedule:
    in_steps = {"batch_size": config.train.batch_size, "steps_per_epoch": steps_per_epoch}
    return TclSchedule(**vars(rate), alone=steps_of(config.alone, total=rate.total, **in_steps))


def _with_head(model: Model, head: TclHead) -> TclModel:
    return TclModel(**vars(model) | {"weights": "tcl", "dtype": torch.float32}, head=head)


HEAD = pairs.PairsHead(TclConfig, Tcl, TclLearner, _with_head, _schedule)
load = partial(pairs.load, HEAD)
"""The model of a finished run."""


def train(config: TclConfig) -> Path:
    """Train a head to its end and give the run's directory.

    Raises:
        BadInput: the configuration, the data, or what `out` or `init` hold cannot be used.
        Preempted: the process, or that of another rank, was asked to stop; what it had is saved.
    """
    out, goes_on = checks.training(config)
    if not goes_on and config.temperature < 1 / SCALE_MAX:
        raise BadInput(
            f"temperature {config.temperature:g} is a scale above {SCALE_MAX:g}, which has no gradient; give at least "
            f"{1 / SCALE_MAX:g}"
        )
    return fit(config.train, (out, goes_on), partial(pairs.compose, HEAD, config))
