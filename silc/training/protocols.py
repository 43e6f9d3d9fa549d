"""What a kind of run gives to the engine: a learner, batches, rates and scores.

The engine passes batches, hyperparameters and outputs on, and reads only the fields that are named here; a kind's own
learner knows the other fields.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor, nn

    from silc.checkpoint import Checkpoint
    from silc.data.quarantine import Samples
    from silc.distributed import World
    from silc.training.config import TrainConfig
    from silc.training.preemption import Preemption
    from silc.training.schedules import LearningRate


class Batches(Protocol):
    """The data of a run, in an order that depends on the step alone."""

    @property
    def steps_per_epoch(self) -> int: ...

    def batches(self, start: int, stop: int, asked: Callable[[], bool] = bool) -> Generator[Any, None, None]:
        """This rank's batches of steps `start` to `stop`, each an `AnyBatch`.

        Args:
            asked: returns whether to stop waiting for a batch.
        """
        ...

    def state(self, step: int) -> dict[str, Any]:
        """The state of the data for a checkpoint after `step` steps, as JSON types."""
        ...

    def check(self, state: Mapping[str, Any]) -> None:
        """
        Raises:
            BadInput: a checkpoint's `state` is of other data.
        """
        ...


class Hyper(Protocol):
    """A schedule's values for one step."""

    @property
    def lr(self) -> float: ...

    def logged(self) -> Mapping[str, float]:
        """The values that go into metrics.jsonl."""
        ...


class Output(Protocol):
    """A learner's output for a batch. No weight has been changed yet."""

    @property
    def loss(self) -> Tensor: ...
    @property
    def metrics(self) -> Mapping[str, Tensor]:
        """Detached scalars, means over this rank; those of the loss's terms are called `loss/<term>`."""
        ...


Context = Callable[[], AbstractContextManager[Any]]


@dataclass(frozen=True)
class Passes:
    """Forward and backward passes of one step, in a run's precision and with its ranks.

    Args:
        module: the learner's module, or its form for DDP or a compiler.
        autocast: makes the context of one forward pass. Each pass has its own, because autocast keeps the weights it
            casts: those cast without gradient must not be used again with gradient.
        no_sync: makes the context of every pass but the last (DDP's).
    """

    module: Callable[..., Any]
    autocast: Context = nullcontext
    no_sync: Context = nullcontext

    def forward(self, *inputs: Any) -> Any:
        """A forward pass whose backward pass, if any, is part of a later pass's."""
        with self.no_sync(), self.autocast():
            return self.module(*inputs)

    def __call__(self, *inputs: Any, last: bool = True) -> Any:
        """A forward and a backward pass; the output that is returned holds no activation.

        Args:
            last: whether this is the step's last backward pass, so that ranks combine their gradients.
        """
        with nullcontext() if last else self.no_sync():
            with self.autocast():
                out = self.module(*inputs)
            out.loss.backward()
        return out


class ParamGroup(NamedTuple):
    """How a parameter is optimised; parameters that are alike in this are one group."""

    lr_scale: float = 1.0
    """Share of the learning rate."""
    decays: bool = True


class Learner(Protocol):
    """A module that learns, and all that the engine asks about it; the defaults here are those of a plain module."""

    @property
    def module(self) -> nn.Module:
        """The module that is moved, sharded, compiled and wrapped."""
        ...

    @property
    def uses_every_parameter(self) -> bool:
        """Whether the last pass of each step uses every parameter, as DDP expects of one pass."""
        return True

    def blocks(self) -> Iterable[nn.Module]:
        """Parts of the module that are sharded one by one; only their `forward` is called."""
        return ()

    def groups(self) -> Mapping[str, ParamGroup]:
        """The group of every parameter that is trained, by its name in the module."""
        return {name: ParamGroup() for name, _ in self.module.named_parameters()}

    def gradients(self, passes: Passes, batch: Any, hyper: Any) -> Output:
        """Add the gradients of a batch to the parameters, in one or several passes."""
        ...

    def after_step(self, out: Any, hyper: Any) -> None:
        """Work after an accepted update (averages, clamps); every rank calls it."""
        return

    def state_dicts(self) -> Mapping[str, Mapping[str, Tensor]]:
        """All tensors a checkpoint keeps, by the name of the file."""
        return {"model": self.module.state_dict()}

    def load(self, saved: Checkpoint) -> None:
        """Take over what `state_dicts` gave.

        Raises:
            BadInput: it is of another architecture.
        """
        saved.load_into(self.module, "model")

    def warning(self, step: int, metrics: Mapping[str, float], hyper: Any) -> str:
        """One line if the metrics show that something goes wrong, else ''."""
        return ""


class Scores(Protocol):
    """How a run is scored while it trains. Scores have the names of metrics.jsonl."""

    def during_training(self) -> Mapping[str, float]:
        """Scores every `eval_every`; every rank calls it."""
        return {}

    def before_and_after(self) -> Mapping[str, float]:
        """Scores before the first step and after the last, none where nothing is held out; every rank calls it."""
        ...

    def summary(self, out: Path) -> Sequence[str]:
        """Lines for the user at the end of the run in `out`."""
        return [f"done: {out}"]


@dataclass(frozen=True)
class RunContext:
    """Where a run begins or resumes."""

    out: Path
    """Its directory."""
    resuming: bool
    """Whether the directory holds the run already."""
    checkpoint: Path | None
    """The checkpoint that it resumes from; None before the first."""
    world: World
    preemption: Preemption


@dataclass(frozen=True)
class Run:
    """A run with all its parts."""

    settings: TrainConfig
    """The settings, with the precision that was chosen."""
    values: Mapping[str, Any]
    """The whole configuration, plain: config.yaml, and what trackers show."""
    learner: Learner
    batches: Batches
    schedule: LearningRate
    samples: Samples
    flops_per_example: float
    scores: Callable[[Callable[[str], None]], Scores]
    """Makes the scores, from a function that prints a line."""
    said: Sequence[str] = ()
    """Lines for the user before the first step."""
    unit: str = "pairs"
    """The name of a sample, as in "12 pairs/s"."""

    def cost(self, step: int) -> dict[str, float]:
        """The cost of `step` steps: examples, and training FLOPs."""
        examples = step * self.settings.batch_size
        return {"examples_seen": examples, "train_flops": examples * self.flops_per_example}
