"""Probes of a model: k nearest neighbours, scored at once, and linear layers, trained by the engine, a run per task."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from silc import config as configs
from silc import places
from silc.data.quarantine import Samples
from silc.distributed import World, join
from silc.errors import BadInput
from silc.eval import suite
from silc.eval.asked import probes_asked_for
from silc.probes.config import ProbeConfig
from silc.probes.heads import Heads
from silc.probes.tasks import Classification, Neighbours, Segmentation
from silc.training.config import steps_of
from silc.training.directory import CONFIG, claim
from silc.training.fit import fit
from silc.training.precision import choose
from silc.training.preemption import Interruptible
from silc.training.protocols import Run, RunContext, Scores
from silc.training.rows import RowBatches
from silc.training.schedules import LearningRate
from silc.training.sharding import unsharded

if TYPE_CHECKING:
    from torch import Tensor

    from silc.eval.asked import Task
    from silc.records import Evaluation

LINEAR: dict[str, type[Any]] = {f"linear_probe_{kind.data}": kind for kind in (Classification, Segmentation)}
LEARNT_BY = (
    *("weights", "l2", "held_back", "exif_orientation"),
    *("train.duration", "train.precision", "train.optim.", "train.seed"),
)
"""Settings, or beginnings of their names, that must be the same when a run continues."""


def probe(config: ProbeConfig) -> list[Evaluation]:
    """Probe a model and return the evaluations; on other ranks than the main one the list is empty.

    Raises:
        BadInput: no such task, model or data set; a place that cannot be written, or that holds another probe.
        Preempted: the process, or that of another rank, was asked to stop; its state is saved.
    """
    out, todo = places.folder(config.out), list[Callable[[World], Any]]()
    for task in probes_asked_for(config.root, config.tasks):  # check all before the first begins
        own = replace(config, tasks=task.name, out=str(out / task.name))
        todo.append(_Run(own, task).train if task.kind in LINEAR else partial(_voted, own, task))
    with join(config.train.device) as world:
        found = [score(world) for score in todo]
        return found if world.is_main else []


def _voted(config: ProbeConfig, task: Task, world: World) -> Evaluation:
    probed = Neighbours(config, task, world)
    return suite.with_intervals(probed.evaluation(), probed.model.weights)


class _Run(Scores):
    """The run of one task, and its scores."""

    probed: Classification | Segmentation
    heads: Heads
    shares: Tensor
    """[2, N]: weight of each image in the loss of the heads that choose the penalty (row 0), and of the heads that are
    scored (row 1). Over an epoch, the losses of the steps average to the mean over the images of the row."""
    found: Evaluation
    along = False
    """Whether heads were scored during training; then the last score is from the end of training."""

    def __init__(self, config: ProbeConfig, task: Task) -> None:
        self.claimed = claim(config.out, config.resume)
        self.config, self.task = replace(config, resume="never"), task
        self.l2 = sorted(config.l2, reverse=True)  # of equal scores the strongest penalty is taken

    def train(self, world: World) -> Evaluation:
        """Train to the end, and return the evaluation."""
        fit(self.config.train, self.claimed, self.compose)
        return self.found

    def compose(self, context: RunContext) -> Run:
        """All that the engine needs; every rank calls it."""
        train, world = self.config.train, Interruptible(**vars(context.world), asked=context.preemption.asked)
        written = configs.load(context.out / CONFIG, ProbeConfig).train.precision if context.resuming else None
        train = replace(train, precision=choose(train.precision, world, written).precision)
        config = self.config = replace(self.config, train=train)
        context.out.mkdir(parents=True, exist_ok=True)
        probed = self.probed = LINEAR[self.task.kind](config, self.task, world)
        self.heads, num_images, settings = self._heads(), len(probed.held_back), configs.flat(config)
        size, same = min(num_images, settings[probed.batched_by]), (*LEARNT_BY, probed.batched_by)
        learnt = torch.stack([~probed.held_back, torch.ones(num_images, dtype=torch.bool)]).float()
        self.shares = learnt / learnt.mean(dim=1, keepdim=True) * (world.size / size)
        learning = {path: value for path, value in settings.items() if path.startswith(same)}
        source = probed.checksums | json.loads(json.dumps(learning))
        batches = RowBatches(self._read, num_images, size, train.seed, world, source)
        in_steps = {"batch_size": size, "steps_per_epoch": batches.steps_per_epoch}
        total = steps_of(train.duration, **in_steps)
        if total < 1:
            raise BadInput(f"train.duration {train.duration!r} is less than one step of {size} images")
        return Run(
            replace(train, batch_size=size),
            configs.plain(config),
            self.heads,
            batches,
            LearningRate.of(train.optim, total=total, **in_steps),
            Samples(num_images),
            6.0 * self.heads.weight.numel(),
            lambda _: self,
            unit="images",
        )

    def _heads(self) -> Heads:
        """Two heads per penalty: without the held-back images, to choose the penalty; and with them, to be scored."""
        torch.manual_seed(self.config.train.seed)
        return self.probed.heads(2 * self.l2)

    def _read(self, rows: Sequence[int]) -> Sequence[Tensor]:
        """Features and labels of training images, and the images' weights in the loss [P, B]."""
        return *self.probed.batch(rows), self.shares[:, rows].repeat_interleave(len(self.l2), dim=0)

    def during_training(self) -> Mapping[str, float]:
        """Scores on the test images, by the head with the penalty that is best on the held-back images."""
        self.along = True
        return self._scored()

    def before_and_after(self) -> Mapping[str, float]:
        """The same scores, if heads were not scored during training."""
        return {} if self.along else self._scored()

    def _scored(self) -> Mapping[str, float]:
        probed, l2, held, train = self.probed, self.l2, self.probed.held_back, self.config.train
        heads = unsharded(self.heads, self._heads)
        scores = [probed.score(heads, head) for head in range(len(l2))]
        chosen = scores.index(max(scores))
        protocol = probed.protocol(
            method=probed.method,
            l2=l2[chosen],
            held_back=f"{int(held.sum())} of {len(held)} training images",
            held_back_scores=dict(zip(map(str, l2), scores, strict=True)),
            duration=train.duration,
            lr=train.optim.lr,
            seed=train.seed,
        )
        evaluation = probed.evaluation(heads, len(l2) + chosen, protocol)
        self.found = suite.with_intervals(evaluation, probed.model.weights)
        return suite.scalars([self.found])
