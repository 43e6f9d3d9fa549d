"""What a kind of run hands to the engine: what learns, from which batches, at which rates, and how it is scored.

The engine passes batches, hyperparameters and outputs on and looks at what is named here alone; a kind's own learner
knows the rest of them.
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
            asked: whether to stop waiting for one.
        """
        ...

    def state(self, step: int) -> dict[str, Any]:
        """What a checkpoint after `step` steps keeps of the data, in JSON's types."""
        ...

    def check(self, state: Mapping[str, Any]) -> None:
        """
        Raises:
            BadInput: a checkpoint's `state` is of other data.
        """
        ...


class Hyper(Protocol):
    """What a schedule says for one step."""

    @property
    def lr(self) -> float: ...

    def logged(self) -> Mapping[str, float]:
        """What stands in metrics.jsonl."""
        ...


class Output(Protocol):
    """What a learner makes of a batch. No weight has been changed yet."""

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
        module: the learner's module, or what DDP or a compiler made of it.
        autocast: makes the context of one forward pass. Each pass has its own: autocast keeps the weights it casts,
            and those cast without gradient must not be met again with it.
        no_sync: makes the context of every pass but the last (DDP's).
    """

    module: Callable[..., Any]
    autocast: Context = nullcontext
    no_sync: Context = nullcontext

    def forward(self, *inputs: Any) -> Any:
        """A forward pass whose backward pass, if it has one, is a part of a later one's."""
        with self.no_sync(), self.autocast():
            return self.module(*inputs)

    def __call__(self, *inputs: Any, last: bool = True) -> Any:
        """Forward and backward; what is left of the output holds no activation.

        Args:
            last: whether no other backward pass follows in this step, so that ranks put their gradients together.
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
    """A module that learns, and all that the engine asks about it; a subclass has what is said here of a plain one."""

    @property
    def module(self) -> nn.Module:
        """What is moved, sharded, compiled and wrapped."""
        ...

    @property
    def uses_every_parameter(self) -> bool:
        """Whether the last pass of each step does, as DDP expects of one pass."""
        return True

    def blocks(self) -> Iterable[nn.Module]:
        """Parts of the module that are sharded each for itself; only their `forward` is called."""
        return ()

    def groups(self) -> Mapping[str, ParamGroup]:
        """The group of every parameter that is trained, by its name in the module."""
        return {name: ParamGroup() for name, _ in self.module.named_parameters()}

    def gradients(self, passes: Passes, batch: Any, hyper: Any) -> Output:
        """Add the gradients of a batch to the parameters, in one or several passes."""
        ...

    def after_step(self, out: Any, hyper: Any) -> None:
        """What an accepted update is followed by (averages, clamps); every rank calls it."""
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
        """One line when what is logged shows that something goes wrong, or nothing."""
        return ""


class Scores(Protocol):
    """How a run is scored while it trains. Scores have the names that metrics.jsonl has."""

    def during_training(self) -> Mapping[str, float]:
        """Scores every `eval_every`; every rank calls it."""
        return {}

    def before_and_after(self) -> Mapping[str, float]:
        """Scores before the first step and after the last, none where nothing is held out; every rank calls it."""
        ...

    def summary(self, out: Path) -> Sequence[str]:
        """What is told at the end, of the run in `out`."""
        return [f"done: {out}"]


@dataclass(frozen=True)
class RunContext:
    """Where a run begins or goes on."""

    out: Path
    """Its directory."""
    resuming: bool
    """Whether the directory holds it already."""
    checkpoint: Path | None
    """The checkpoint it goes on from; None before the first."""
    world: World
    preemption: Preemption


@dataclass(frozen=True)
class Run:
    """A run, composed."""

    settings: TrainConfig
    """With the precision it has."""
    values: Mapping[str, Any]
    """The whole configuration, plain: config.yaml, and what trackers show."""
    learner: Learner
    batches: Batches
    schedule: LearningRate
    samples: Samples
    flops_per_example: float
    scores: Callable[[Callable[[str], None]], Scores]
    """Makes the scores, given how lines are told."""
    said: Sequence[str] = ()
    """What is told before the first step."""
    unit: str = "pairs"
    """What a sample is called in "12 pairs/s"."""

    def cost(self, step: int) -> dict[str, float]:
        """What so many steps took: examples, and training FLOPs."""
        examples = step * self.settings.batch_size
        return {"examples_seen": examples, "train_flops": examples * self.flops_per_example}
