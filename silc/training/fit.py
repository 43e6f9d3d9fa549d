"""Train a run of any kind, from its first step or its last checkpoint, to its end."""

from __future__ import annotations

import json
import os
import platform
import sys
from contextlib import closing, contextmanager, nullcontext
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
import yaml

from silc import processor
from silc.data.quarantine import QUARANTINE, Quarantine
from silc.data.workers import LostWorker, StoppedWaiting
from silc.distributed import join
from silc.durable import write_whole
from silc.errors import BadInput, Preempted
from silc.training import loop, state
from silc.training.directory import CHECKPOINTS, CONFIG, ENVIRONMENT, left_behind, newest
from silc.training.log import Log, Tracker
from silc.training.preemption import Preemption
from silc.training.protocols import Run, RunContext
from silc.training.saver import Saver

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from pathlib import Path

    from silc.distributed import World
    from silc.training.config import TrainConfig

GRACE = 10.0
"""Seconds that a rank which is to stop still waits for its batch, so that all can save. `torchrun` kills after 30."""


def fit(settings: TrainConfig, claimed: tuple[Path, bool], compose: Callable[[RunContext], Run]) -> Path:
    """Train a run to its end and return its directory.

    Args:
        settings: of the training; ranks, device and patience are needed before the run is composed.
        claimed: as `directory.claim` returns it.
        compose: makes the run, from where it begins or resumes; every rank calls it.

    Raises:
        BadInput: what `compose` raises; the checkpoint, the data or the disk cannot be used.
        Preempted: this process or another rank's was asked to stop; its progress is saved.
    """
    out, goes_on = claimed
    with join(settings.device, timedelta(seconds=settings.timeout)) as world:
        share, micro_batch = settings.batch_size // world.size, settings.micro_batch
        if micro_batch and share % micro_batch:
            raise BadInput(
                f"train.micro_batch {micro_batch} does not divide a rank's {share} pairs; give one that does, or 0"
            )
        context = RunContext(out, goes_on, newest(out, world) if goes_on else None, world, Preemption())
        run = compose(context)
        restored = state.begin(run, context)
        world.barrier()
        if world.is_main:
            write_whole(out / CONFIG, yaml.safe_dump(dict(run.values), sort_keys=False))
            write_whole(out / ENVIRONMENT, json.dumps(environment(world), indent=1))
        with _log(run, out, restored.progress.step) if world.is_main else nullcontext() as log:
            _Running(run, context, restored, log).to_the_end()
    return out


class _Running:
    """A run in progress, on one rank."""

    def __init__(self, run: Run, context: RunContext, restored: loop.TrainState, log: Log | None) -> None:
        world, settings = context.world, run.settings
        self.run, self.context, self.restored, self.log = run, context, restored, log
        self.progress = restored.progress
        self.scores = run.scores(log.say if log is not None else lambda _: None)
        self.tell(run.said)
        self.quarantine = Quarantine(
            context.out / QUARANTINE,
            run.samples,
            batch_size=settings.batch_size,
            met=world.total(self.progress.bad),
            world=world,
        )
        saved = None if context.checkpoint is None else self.progress.step
        self.saver = Saver(context.out / CHECKPOINTS, settings.keep, world, saved=saved)

    def to_the_end(self) -> None:
        """Train, save and score."""
        run, world, preemption, start = self.run, self.context.world, self.context.preemption, self.progress.step
        # Other ranks wait for this one's batch within the step, so it is given time to come.
        asked = partial(preemption.asked, GRACE if world.size > 1 else 0.0)
        hooks = loop.Hooks(
            self.save,
            evaluate=lambda: self.record(self.scores.during_training()),
            stop=lambda: preemption.asked() or self.saver.failed(),
        )
        with preemption, closing(run.batches.batches(start, run.schedule.total, asked)) as batches, self.kept():
            if start == 0:
                self.record(self.scores.before_and_after())
            watched = self.quarantine.watch(batches, start)
            loop.train(run, self.restored, watched, world=world, log=self.log, hooks=hooks)
            self.saver.finish()
            self.record(self.scores.before_and_after())
        if self.log is not None:
            self.tell(self.scores.summary(self.context.out))

    def save(self) -> None:
        """Write a checkpoint, in the background."""
        self.quarantine.sync()
        world = self.context.world
        tensors = state.state_dicts_of(self.run, self.restored.optimizer, world)
        self.saver.save(self.progress.step, tensors, state.state_of(self.run, self.progress, world))

    def record(self, scores: Mapping[str, float]) -> None:
        """Write scores as a record, with what the run has cost."""
        if scores and self.log is not None:
            step = self.progress.step
            self.log.record({"step": step, **self.run.cost(step), **scores})

    def tell(self, lines: Iterable[str]) -> None:
        """Print lines for the user, on the main rank."""
        for line in lines:
            if self.log is not None:
                self.log.say(line)

    @contextmanager
    def kept(self) -> Iterator[None]:
        """If the run is stopped or loses a worker, save what was learnt, if possible. The error says how to go on."""
        preemption = self.context.preemption
        try:
            yield
        except LostWorker as lost:
            raise LostWorker(f"{lost}; {self._save_alone()}") from lost
        except StoppedWaiting:
            said = f"{preemption.name} asked to stop while no batch came; {self._save_alone()}"
            raise Preempted(said, exit_code=preemption.exit_code) from None
        except Preempted:
            self.save()
            self.saver.finish()
            said = f"{preemption.name or 'another rank'} asked to stop: saved step {self.progress.step} of "
            said += f"{self.run.schedule.total}; `--resume auto` goes on from there"
            raise Preempted(said if self.context.world.is_main else "", exit_code=preemption.exit_code) from None
        except KeyboardInterrupt:
            raise KeyboardInterrupt(left_behind(self.context.out)) from None
        except BadInput:
            self.saver.wait()  # an earlier save must not be lost to a later error
            raise

    def _save_alone(self) -> str:
        """Save between two steps if this is the only rank (others would wait within the step); returns a line for the
        user."""
        if self.context.world.size > 1:
            self.saver.wait()
            return "`--resume auto` goes on from the last checkpoint"
        self.save()
        self.saver.finish()
        return f"saved step {self.progress.step}; `--resume auto` goes on from there"


def environment(world: World) -> dict[str, Any]:
    """What must be known to repeat a measured number."""
    gpu = torch.cuda.get_device_name(world.device) if world.device.type == "cuda" else ""
    return {
        "command": sys.argv,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "processor": processor.name(),
        "cores": os.cpu_count(),
        "gpu": gpu,
        "ranks": world.size,
        "threads": torch.get_num_threads(),
    }


def _log(run: Run, out: Path, start: int) -> Log:
    trackers = [Tracker(name, out, run.values) for name in run.settings.trackers]
    return Log(out, start=start, total=run.schedule.total, trackers=trackers, unit=run.unit)
