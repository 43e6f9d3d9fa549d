"""Parts that the runs of all heads share: the model below, precision, length, and scores during training."""

from __future__ import annotations

import copy
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

import torch

from silc import checkpoint, checks
from silc import config as configs
from silc.config import Config, DownstreamConfig
from silc.data.loader import LoaderPlan
from silc.errors import BadInput
from silc.eval import suite
from silc.eval.progress import Unscored
from silc.loading import Loaded, checksum_of, load_any
from silc.models.config import multiples_near
from silc.rundir import newest_checkpoint
from silc.terminal import say
from silc.training.config import steps_of
from silc.training.directory import CONFIG, is_run
from silc.training.precision import choose
from silc.training.preemption import Interruptible
from silc.training.protocols import Batches, Passes, RunContext, Scores
from silc.training.schedules import LearningRate

if TYPE_CHECKING:
    from torch import Tensor, nn

    from silc.checkpoint import Checkpoint
    from silc.distributed import World
    from silc.models.image import ImageTower
    from silc.models.text import TextTower
    from silc.predict import Model
    from silc.records import Evaluator
    from silc.training.config import TrainConfig

C = TypeVar("C", bound=DownstreamConfig)
SHUFFLED = 16
"""Blocks of samples that are shuffled together."""


class Learnt(NamedTuple):
    """The output of a head's module for a batch: an `Output`."""

    loss: Tensor  # [] with gradient
    metrics: Mapping[str, Tensor]


def settled(config: C, context: RunContext) -> C:
    """The configuration with a fixed precision: the one the run began with, or the fast one on its device."""
    written = configs.load(context.out / CONFIG, type(config)).train.precision if context.resuming else None
    precision = choose(config.train.precision, context.world, written)
    if precision.said and context.world.is_main:
        say(precision.said)
    return replace(config, resume="never", train=replace(config.train, precision=precision.precision))


def model_below(config: DownstreamConfig, device: torch.device | str) -> Loaded:
    """Load the model that a head is trained on.

    Raises:
        BadInput: there is none, none is named, or what is named is a head itself.
    """
    checks.origin(config)
    if is_run(config.init):
        configs.load_of(Path(config.init) / CONFIG, [Config.kind])
    return load_any(config.init, weights="both" if config.weights == "auto" else config.weights, device=device)


def evaluation_world(context: RunContext) -> Interruptible:
    """The ranks, for evaluations: between batches they check for requests to stop."""
    return Interruptible(**vars(context.world), asked=context.preemption.asked)


def along(config: DownstreamConfig, world: Interruptible) -> list[Evaluator]:
    """The tasks that a run is scored on during training.

    Raises:
        BadInput: a task or a data set that is not there.
    """
    return suite.tasks(config.eval, world.heed, world) if config.train.eval_every != "never" else []


def loader_plan(train: TrainConfig, workers: int) -> LoaderPlan:
    """How a head's loader reads samples that lie in single files."""
    return LoaderPlan(train.batch_size, train.seed, SHUFFLED, workers, patience=train.timeout)


def size_in_patches(size: int, patch: int, which: str = "size") -> int:
    """The size of an image, if it is a whole number of patches; `which` names the setting.

    Raises:
        BadInput: it is not.
    """
    if size % patch or size < patch:
        raise BadInput(
            f"{which} {size} is no multiple of the patch of {patch} pixels; use {multiples_near(size, patch)}"
        )
    return size


def rates(train: TrainConfig, steps_per_epoch: int, unit: str = "images") -> LearningRate:
    """The learning rate of each step.

    Raises:
        BadInput: the training is shorter than a step, or than its warm-up and cool-down.
    """
    in_steps = {"batch_size": train.batch_size, "steps_per_epoch": steps_per_epoch}
    total = steps_of(train.duration, **in_steps)
    if total < 1:
        raise BadInput(f"train.duration {train.duration!r} is less than one step of {train.batch_size} {unit}")
    return LearningRate.of(train.optim, total=total, **in_steps)


def in_micro_batches(passes: Passes, inputs: Sequence[Tensor], micro_batch: int, *more: Any) -> Learnt:
    """Compute gradients of a batch, some rows at a time, for a loss that is a mean over rows. Returns the output of the
    last pass, with the loss and metrics of the whole batch.

    Args:
        passes: runs a module forward and backward. The module takes some rows of `inputs`, their fraction of the batch,
            and `more`. It multiplies its loss by the fraction, and returns a `Learnt`.
        inputs: tensors [B, ...].
        micro_batch: rows at a time, a divisor of B; 0: all at once.
    """
    rows = micro_batch or len(inputs[0])
    starts = range(0, len(inputs[0]), rows)
    outs: list[Learnt] = [
        passes(*(x[start : start + rows] for x in inputs), 1 / len(starts), *more, last=start == starts[-1])
        for start in starts
    ]
    sums = {name: torch.stack([out.metrics[name] for out in outs]).mean() for name in outs[0].metrics}
    return outs[-1]._replace(loss=torch.stack([out.loss.detach() for out in outs]).sum(), metrics=sums)


@dataclass(frozen=True)
class OnModel(Batches):
    """The batches of a run on a model that the run does not save. The run can resume only with that model.

    Args:
        source: the model's checksum, under `model`, and other values (JSON types) that must not change on resuming.
    """

    below: Batches
    source: Mapping[str, Any]

    @property
    def steps_per_epoch(self) -> int:
        return self.below.steps_per_epoch

    def batches(self, start: int, stop: int, asked: Callable[[], bool] = bool) -> Generator[Any, None, None]:
        """The batches of `below`, unchanged."""
        return self.below.batches(start, stop, asked)

    def state(self, step: int) -> dict[str, Any]:
        """The state of `below`, with `source`."""
        return {**self.below.state(step), **self.source}

    def check(self, state: Mapping[str, Any]) -> None:
        """Check that a run can resume from a checkpoint's state.

        Raises:
            BadInput: the checkpoint has other data, or another model below.
        """
        check_below(state, self.source["model"])
        for name, now in self.source.items():
            if now != (was := state.get(name, now)):
                raise BadInput(f"{name} is {now!r} here and was {was!r} when the run began; give another --out")
        self.below.check(state)


def check_below(loader: Mapping[str, Any], checksum: str) -> None:
    """Compare the model below with that of a checkpoint, whose `loader` state names it.

    Raises:
        BadInput: it is another one.
    """
    if loader.get("model", checksum) != checksum:
        raise BadInput("init holds another model than the one that this head was trained on; put that model back")


def inside(run: Path, config: C) -> C:
    """The configuration of a run or an export; in an export `init` becomes the path of the model below inside it."""
    return replace(config, init=str(run / config.init)) if (run / config.init).exists() else config


@dataclass(frozen=True)
class Finished(Generic[C]):
    """A head's run that has a checkpoint, and the model below it."""

    config: C
    saved: Checkpoint
    below: Loaded
    checksum: str
    """Checksum of the model below and of the run."""

    def loaded(self, model: Model) -> Loaded:
        """The `Loaded` that `silc.load` needs; `model` has the head."""
        cost = self.saved.state["cost"]
        models = {self.config.kind: model}
        return Loaded(models, cost["examples_seen"], cost["train_flops"], self.checksum, self.below.contrastive)


def finished(run: Path, settings: type[C], device: torch.device | str) -> Finished[C]:
    """Read a head's run, or its export, which has the model below inside.

    Raises:
        BadInput: a damaged checkpoint; the model below is not there, or is another one.
    """
    newest, config = newest_checkpoint(run), inside(run, configs.load(run / CONFIG, settings))
    saved, below = checkpoint.read(newest, only=("model",)), model_below(config, device)
    check_below(saved.state["loader"], below.checksum)
    return Finished(config, saved, below, below.checksum + checksum_of(run, newest))


def with_towers(model: Model, visual: ImageTower, text: TextTower) -> dict[str, Any]:
    """The fields of a model, with its towers replaced by these."""
    towers = copy.copy(model.model)
    towers._modules = model.model._modules | {"visual": visual, "text": text}
    return vars(model) | {"model": towers, "visual": visual}


@dataclass
class HeadScores(Scores):
    """Scores of a model with its head before, during and after training, if they are asked for.

    A task that cannot be scored is reported; only its own scores are missing.

    Args:
        kind: kind of the head; the scores have its name.
        module: the module that is trained; it is in eval mode while it is scored.
        whole: returns the module with all its tensors, as `unsharded` does; every rank calls it.
        in_use: makes a new model from the whole module, so that weights and text features are the current ones.
        tasks: as `along` gives them.
        tell: prints a line.
    """

    kind: str
    module: nn.Module
    whole: Callable[[], Any]
    in_use: Callable[[Any], Model]
    tasks: Sequence[Evaluator]
    world: World
    tell: Callable[[str], None]
    unscored: Unscored = field(init=False)
    along: bool = field(default=False, init=False)
    """Whether scores were computed during training; the last of them are those of the final weights."""

    def __post_init__(self) -> None:
        self.unscored = Unscored(self.tell)

    def during_training(self) -> Mapping[str, float]:
        """Every score of every task that can be scored."""
        self.along = True
        return self._scored()

    def before_and_after(self) -> Mapping[str, float]:
        """Every score; nothing if scores were computed during training, because its last step is already scored."""
        return {} if self.along else self._scored()

    def summary(self, out: Path) -> list[str]:
        """Lines that say what could not be scored, and where the run is."""
        return [*self.unscored.summary(out), f"done: {out}"]

    def _scored(self) -> Mapping[str, float]:
        if not self.tasks:
            return {}
        self.module.eval()
        try:
            with torch.random.fork_rng(devices=[]):  # a new copy takes no random numbers from the training
                whole = self.whole()
            models = {self.kind: self.in_use(whole.eval())}
            scored = suite.run(models, self.tasks, world=self.world, failed=self.unscored)
        finally:
            self.module.train()
        self.world.collect(None)  # one more collect, for a rank that was asked to stop in its last batch
        return suite.scalars(scored)
