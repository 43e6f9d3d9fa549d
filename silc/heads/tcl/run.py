"""A run of TCL, and its model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from silc.errors import BadInput
from silc.heads.pairs import PairsHead
from silc.heads.tcl.config import TclConfig
from silc.heads.tcl.model import TclLearner, TclModel, TclSchedule
from silc.heads.tcl.objective import SCALE_MAX, Tcl
from silc.training.config import steps_of

if TYPE_CHECKING:
    from silc.training.schedules import LearningRate


def _schedule(rate: LearningRate, config: TclConfig, steps_per_epoch: int) -> TclSchedule:
    in_steps = {"batch_size": config.train.batch_size, "steps_per_epoch": steps_per_epoch}
    return TclSchedule(**vars(rate), alone=steps_of(config.alone, total=rate.total, **in_steps))


def _check(config: TclConfig) -> None:
    if config.temperature < 1 / SCALE_MAX:
        raise BadInput(
            f"temperature {config.temperature:g} gives a scale above {SCALE_MAX:g}, which has no gradient; give at "
            f"least {1 / SCALE_MAX:g}"
        )


HEAD = PairsHead(TclConfig, Tcl, TclLearner, TclModel, _schedule, _check)
train, load = HEAD.train, HEAD.load
