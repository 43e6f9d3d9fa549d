"""Linear heads as the engine sees them (training/protocols.py): what learns, and from which batches."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from silc.probes.heads import MOMENTUM, Learnt, LinearHeads, PatchHeads
from silc.training.protocols import Group
from silc.types import BadInput

if TYPE_CHECKING:
    from torch import Tensor, nn

    from silc.checkpoint import Checkpoint
    from silc.distributed import World
    from silc.training.passes import Passes
    from silc.training.schedules import Rate
    from silc.types import Broken


class Batch(NamedTuple):
    """One rank's share of a batch of frozen features."""

    inputs: Sequence[Tensor]
    """Features, labels, and what each image adds to the loss of each head: what `forward` of the heads takes."""
    keys: Sequence[str]
    broken: Sequence[Broken] = ()
    bad: Mapping[str, int] = {}

    def to(self, device: torch.device | str) -> Batch:
        """The batch on a device."""
        return self._replace(inputs=[x.to(device) for x in self.inputs])


@dataclass(frozen=True)
class Batches:
    """Images in an order that follows from seed and epoch; what is left at the end of an epoch is left out.

    Args:
        read: features and labels of some images.
        held_back: bool [N]; the first half of the heads does not learn from these images, the second from all.
        num_heads: P.
        batch_size: images over all ranks, at most N.
        source: what the features are of, in JSON's types; a run does not go on with others.
    """

    read: Callable[[Sequence[int]], tuple[Tensor, Tensor]]
    held_back: Tensor
    num_heads: int
    batch_size: int
    seed: int
    world: World
    source: Mapping[str, Any]

    @property
    def steps_per_epoch(self) -> int:
        return len(self.held_back) // self.batch_size

    def batches(self, start: int, stop: int, asked: Callable[[], bool] = bool) -> Generator[Batch, None, None]:
        """This rank's batches of steps `start` to `stop`."""
        for step in range(start, stop):
            epoch, place = divmod(step, self.steps_per_epoch)
            order = np.random.default_rng((self.seed, epoch)).permutation(len(self.held_back))
            rows = order[place * self.batch_size : (place + 1) * self.batch_size]
            mine = rows[self.world.rank :: self.world.size].tolist()
            yield Batch((*self.read(mine), self._shares(mine)), [str(row) for row in mine])

    def state(self, step: int) -> dict[str, Any]:
        """What a checkpoint keeps of the data; the place in it is the step."""
        return {"step": step, **self.source}

    def check(self, state: Mapping[str, Any]) -> None:
        """
        Raises:
            BadInput: the checkpoint's features are of another model, or of other images.
        """
        for name, now in self.source.items():
            if now != state[name]:
                told = f"the probe's {name} is {now} and was {state[name]} when it began"
                raise BadInput(f"{told}; probe it anew into another --out")

    def _shares(self, rows: Sequence[int]) -> Tensor:
        """[P, B], so that the mean over ranks, summed over an epoch, is the mean over the images that a head learns."""
        learnt = (~self.held_back[rows]).float() / (~self.held_back).float().mean()
        half = torch.stack([learnt, torch.ones_like(learnt)]) * (self.world.size / self.batch_size)
        return half.repeat_interleave(self.num_heads // 2, dim=0)


@dataclass(frozen=True)
class Probe:
    """The engine's `Learner` of heads."""

    module: LinearHeads | PatchHeads
    meets_every_parameter: bool = field(default=True, init=False)
    methods: tuple[str, ...] = field(default=(), init=False)

    def blocks(self) -> Iterable[nn.Module]:
        """None: the heads are sharded as one."""
        return ()

    def groups(self) -> Mapping[str, Group]:
        """All alike: the penalty is in the loss."""
        return {name: Group(decays=False) for name, _ in self.module.named_parameters()}

    def gradients(self, passes: Passes, batch: Batch, hyper: Rate) -> Learnt:
        """Of all heads at once."""
        out: Learnt = passes(*batch.inputs)
        return out

    @torch.no_grad()
    def after_step(self, out: Learnt, hyper: Rate) -> None:
        """Batch norm's running statistics, as torch moves them."""
        if isinstance(self.module, PatchHeads) and out.statistics is not None:
            self.module.running.lerp_(out.statistics, MOMENTUM)

    def parts(self) -> Mapping[str, Mapping[str, Tensor]]:
        """Everything the heads hold."""
        return {"heads": self.module.state_dict()}

    def load(self, saved: Checkpoint) -> None:
        """Raises BadInput when it is of other heads."""
        saved.load_into(self.module, "heads")

    def warning(self, step: int, metrics: Mapping[str, float], hyper: Rate) -> str:
        """None: the loss is convex, or nearly so."""
        return ""
