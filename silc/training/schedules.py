"""The learning rate as a function of the step."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from silc.errors import BadInput
from silc.training.config import steps_of

if TYPE_CHECKING:
    from silc.training.config import OptimConfig


def rsqrt(step: float, *, warmup: int, cooldown: int, total: int, timescale: float) -> float:
    """Share of the peak learning rate at `step`, in [0, 1]  (big_vision's rsqrt, its shift 0).

    1/sqrt(1 + max(step - warmup, 0)/timescale) * min(1, step/warmup) * min(1, (total - step)/cooldown)

    Without the max it is NaN during a warm-up longer than the timescale.
    """
    value = 1 / math.sqrt(1 + max(step - warmup, 0) / timescale)
    if warmup:
        value *= min(1.0, step / warmup)
    if cooldown:
        value *= min(1.0, (total - step) / cooldown)
    return value


def cosine(step: float, *, warmup: int, total: int) -> float:
    """Share of the peak learning rate at `step`: linear warm-up, then half a cosine to 0."""
    if step < warmup:
        return step / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))


class Rate(NamedTuple):
    """The values for one step of a schedule that has only a learning rate."""

    lr: float

    def logged(self) -> dict[str, float]:
        """The values that go into metrics.jsonl."""
        return self._asdict()


@dataclass(frozen=True)
class LearningRate:
    """The schedule of a run's learning rate; a subclass adds what else changes with the step.

    Step `s` (counted from 0) uses the value at s + 1 during the warm-up and at s afterwards, so that neither the first
    nor the last update has a learning rate of exactly 0.
    """

    optim: OptimConfig
    total: int
    warmup: int
    cooldown: int

    @classmethod
    def of(cls, optim: OptimConfig, *, total: int, batch_size: int, steps_per_epoch: int, **more: Any) -> Self:
        """Convert the durations of `optim` to steps, once; `more` are a subclass's own fields.

        Raises:
            BadInput: warm-up and cool-down do not fit into the run.
        """
        in_steps = {"batch_size": batch_size, "steps_per_epoch": steps_per_epoch, "total": total}
        warmup, cooldown = steps_of(optim.warmup, **in_steps), steps_of(optim.cooldown, **in_steps)
        if optim.schedule == "cosine":
            cooldown = 0  # it ends at 0 by itself
        if warmup + cooldown > total:
            raise BadInput(
                f"a warm-up of {warmup:,} and a cool-down of {cooldown:,} steps do not fit into a run of {total:,}; "
                "shorten them (--train.optim.warmup 10% --train.optim.cooldown 20%) or train longer"
            )
        return cls(optim, total, warmup, cooldown, **more)

    def at(self, step: int) -> Any:
        """The `Hyper` of one step, 0 <= step < total."""
        return Rate(self.lr(step))

    def lr(self, step: int) -> float:
        """The learning rate of one step, 0 <= step < total."""
        at = step + 1 if step < self.warmup else step
        if self.optim.schedule == "cosine":
            share = cosine(at, warmup=self.warmup, total=self.total)
        else:
            share = rsqrt(
                at, warmup=self.warmup, cooldown=self.cooldown, total=self.total, timescale=self.optim.timescale
            )
        return self.optim.lr * share
