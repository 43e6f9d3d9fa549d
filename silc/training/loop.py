"""The training loop: the only place where batches, learner, optimizer, logs and checkpoints meet."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from silc.errors import BadInput, Preempted
from silc.training.config import steps_of

if TYPE_CHECKING:
    from torch import Tensor

    from silc.batch import AnyBatch
    from silc.distributed import World
    from silc.training.log import Log
    from silc.training.optim import Optimizer
    from silc.training.protocols import Passes, Run

NOT_FINITE = "not-finite.json"
"""The file in a run's directory that names the batch it stopped at."""


@dataclass
class Progress:
    """How far a run has come; saved with every checkpoint."""

    step: int = 0
    skipped: int = 0
    """Steps whose loss or gradient was not finite."""
    bad: Counter[str] = field(default_factory=Counter)
    """Broken samples met on this rank, by cause."""

    def count(self, batch: AnyBatch, *, accepted: bool) -> None:
        """Count one more step, made with this batch."""
        self.step, self.skipped = self.step + 1, self.skipped + (not accepted)
        self.bad.update(broken.cause for broken in batch.broken)


class TrainState(NamedTuple):
    """A run that is ready for its next step."""

    passes: Passes
    """How a pass through the learner's module is run."""
    optimizer: Optimizer
    progress: Progress


@dataclass(frozen=True)
class Hooks:
    """Functions that the loop calls; all but `stop` are called on every rank, after the step was counted."""

    save: Callable[[], None]
    evaluate: Callable[[], None]
    stop: Callable[[], bool] = bool
    """Whether this rank wants all ranks to stop after the current step."""


def train(run: Run, state: TrainState, batches: Iterator[Any], *, world: World, log: Log | None, hooks: Hooks) -> None:
    """Train from the step after `state.progress` to the end of the schedule.

    Args:
        run: learner, schedule and settings; the learner's `after_step` is called once per accepted update.
        batches: this rank's batches, from that step on.
        log: None on all ranks but the main one.

    Raises:
        BadInput: `max_skips` steps in a row were not finite.
        Preempted: on every rank, after the step in which one rank wanted to stop; the loop saves nothing for it.
    """
    learner, schedule, settings = run.learner, run.schedule, run.settings
    passes, optimizer, progress = state
    log_every, save_every, eval_every = (
        _interval(duration, run) for duration in (settings.log_every, settings.save_every, settings.eval_every)
    )
    meter, skips_in_a_row = Meter(settings.batch_size), 0
    for step in range(progress.step, schedule.total):
        hyper = schedule.at(step)
        with meter.waiting():
            batch = next(batches).to(world.device)
        out = learner.gradients(passes, batch, hyper)
        grad_norm = optimizer.clip()
        # All ranks decide the same, before any state changes.
        finite = torch.isfinite(out.loss) & torch.isfinite(grad_norm)
        accepted, go_on = world.all_true(torch.stack([finite, torch.tensor(not hooks.stop(), device=finite.device)]))
        if accepted:
            optimizer.step(hyper)
            learner.after_step(out, hyper)
        optimizer.zero_grad()

        skips_in_a_row = 0 if accepted else skips_in_a_row + 1
        progress.count(batch, accepted=accepted)
        meter.count()
        if log is not None:
            log.tick(progress.step, eta_seconds=meter.eta(schedule.total - progress.step))
        if skips_in_a_row:
            _report_skip(world, log, progress, batch, skips_in_a_row, settings.max_skips)
        if due(progress.step, log_every, schedule.total):
            metrics = _reduced(world, dict(out.metrics) | {"grad_norm": grad_norm})
            bad = world.total(progress.bad)
            if log is not None:
                record = _record(run, progress, metrics | hyper.logged(), bad)
                log.step(record | meter.read(), eta_seconds=meter.eta(schedule.total - progress.step))
                if warning := learner.warning(progress.step, metrics, hyper):
                    log.say(f"step {progress.step}: {warning}")
        if not go_on:
            raise Preempted
        # Save first: an error in an evaluation must not lose the steps before it.
        if progress.step == schedule.total or due(progress.step, save_every, schedule.total):
            hooks.save()
            meter.restart()
        if due(progress.step, eval_every, schedule.total):
            hooks.evaluate()
            meter.restart()


def _record(run: Run, progress: Progress, metrics: Mapping[str, float], bad: Counter[str]) -> dict[str, float]:
    """A step's record for metrics.jsonl, without times."""
    return {
        "step": progress.step,
        **run.cost(progress.step),
        **metrics,
        "skipped": progress.skipped,
        **{f"bad/{cause}": count for cause, count in sorted(bad.items())},
    }


def _interval(duration: str, run: Run) -> int:
    """The number of steps between two times of something periodic; 0: never."""
    if duration == "never":
        return 0
    batch_size, steps_per_epoch = run.settings.batch_size, run.batches.steps_per_epoch
    return max(1, steps_of(duration, batch_size=batch_size, steps_per_epoch=steps_per_epoch, total=run.schedule.total))


def due(step: int, every: int, total: int) -> bool:
    """Whether something periodic is due after `step` steps: every `every` steps (0: never), and at the end."""
    return every > 0 and (step % every == 0 or step == total)


class Meter:
    """Pairs per second and the share of time spent waiting for data, since the last reading."""

    def __init__(self, batch_size: int) -> None:
        self.batch_size = batch_size
        self.rate = 0.0
        self.restart()

    def restart(self) -> None:
        """Forget the time since the last reading (it went into something other than training)."""
        self.since, self.waited, self.steps = time.perf_counter(), 0.0, 0

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """A context whose time counts as waiting for data."""
        start = time.perf_counter()
        yield
        self.waited += time.perf_counter() - start

    def count(self) -> None:
        """One more step done."""
        self.steps += 1

    def read(self) -> dict[str, float]:
        """`samples_per_s` and `data_wait` (0 to 1), then start again."""
        elapsed = time.perf_counter() - self.since
        self.rate = self.steps / elapsed if self.steps else self.rate
        reading = {"samples_per_s": self.rate * self.batch_size, "data_wait": self.waited / elapsed}
        self.restart()
        return reading

    def eta(self, steps: int) -> float:
        """Seconds `steps` more steps take at the rate last read."""
        return steps / self.rate if self.rate else 0.0


def _reduced(world: World, metrics: dict[str, Tensor]) -> dict[str, float]:
    """Means over the ranks, as numbers, in one transfer."""
    values = world.mean(torch.stack([value.float().to(world.device) for value in metrics.values()]))
    return dict(zip(metrics, values.tolist(), strict=True))


def _report_skip(world: World, log: Log | None, progress: Progress, batch: AnyBatch, in_a_row: int, limit: int) -> None:
    """Say that a step was skipped; after `limit` of them keep the names of the batch and stop, on every rank."""
    if log is not None:
        log.say(f"step {progress.step}: loss or gradient is not finite; skipped on every rank ({in_a_row} in a row)")
    if in_a_row < limit:
        return
    keys = world.collect(list(batch.keys))
    kept = (
        "" if log is None else f"; its samples, by rank: {log.keep(NOT_FINITE, {'step': progress.step, 'keys': keys})}"
    )
    raise BadInput(
        f"{in_a_row} steps in a row were not finite at step {progress.step}; lower train.optim.lr or set "
        f"train.precision to float32{kept}"
    )
