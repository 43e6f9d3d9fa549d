"""Learning rate, EMA momentum and teacher temperature of a pretraining run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from silc.models.teacher import half_life_of, momentum_of
from silc.training.config import examples_of, steps_of
from silc.training.schedules import LearningRate
from silc.types import BadInput, Hyper

if TYPE_CHECKING:
    from silc.config import Config


@dataclass(frozen=True)
class Schedule(LearningRate):
    """Everything that changes with the step."""

    momentum: float
    temperature: float

    def at(self, step: int) -> Hyper:
        """Settings of one step, 0 <= step < total."""
        return Hyper(lr=self.lr(step), momentum=self.momentum, temperature=self.temperature)


def schedule_of(config: Config, steps_per_epoch: int) -> Schedule:
    """A run's.

    Raises:
        BadInput: the run is shorter than a step, or than its warm-up and cool-down; or the teacher's half-life is 0.
    """
    batch_size, teacher = config.train.batch_size, config.model.teacher
    total = steps_of(config.train.duration, batch_size=batch_size, steps_per_epoch=steps_per_epoch)
    if total < 1:
        raise BadInput(f"train.duration {config.train.duration!r} is less than one step of {batch_size} pairs")
    if teacher.half_life == "auto":
        half_life = half_life_of(total * batch_size)
    else:
        half_life = examples_of(teacher.half_life, batch_size=batch_size, steps_per_epoch=steps_per_epoch, total=total)
        if half_life <= 0:
            raise BadInput("model.teacher.half_life is 0: such a teacher is the student; give examples, or 'auto'")
    return Schedule.of(
        config.train.optim,
        total=total,
        batch_size=batch_size,
        steps_per_epoch=steps_per_epoch,
        momentum=momentum_of(half_life, batch_size),
        temperature=teacher.temperature,
    )
