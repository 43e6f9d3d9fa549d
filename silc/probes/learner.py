"""Linear layers as the engine sees them (training/protocols.py): P heads side by side, one for each weight of the
penalty. They share no parameter, so one training gives what each would have become alone.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from silc.errors import BadInput
from silc.eval.embed import ALONE
from silc.eval.fewshot import shuffled_by_class
from silc.training.protocols import Group, Learner

if TYPE_CHECKING:
    from torch import Tensor

    from silc.batch import Broken
    from silc.distributed import World
    from silc.training.protocols import Passes
    from silc.training.schedules import Rate

EPSILON, MOMENTUM, INITIAL = 1e-5, 0.1, 0.01
"""torch's batch norm; deviation of the initial weights (mmsegmentation's): at 0, batch norm's zero mean would leave
classes that a batch lacks to rounding alone.
"""


class Learnt(NamedTuple):
    """What the heads make of a batch."""

    loss: Tensor  # [] with gradient, summed over the heads
    metrics: Mapping[str, Tensor]
    statistics: Tensor  # [2, D], what the running ones move towards


class Heads(nn.Module):
    """P linear classifiers of normalised patches, one for each penalty l2 / 2 |W|^2; they begin alike, biases are free.

    Pooled features are images of one patch. Batch norm has no gain and no shift: the layers behind it have both.

    Args:
        running: mean and variance [2, D]: of the features, or where batch norm's running ones begin.
        batch_norm: normalise by the batch's statistics while training (of all ranks, as SyncBatchNorm).
        ignore: the label of pixels that are in no loss.
    """

    running: Tensor

    def __init__(
        self,
        l2: Sequence[float],
        num_classes: int,
        running: Tensor,
        *,
        batch_norm: bool = False,
        ignore: int = -1,
        world: World = ALONE,
    ) -> None:
        super().__init__()
        self.l2, self.batch_norm, self.ignore, self.world = tuple(l2), batch_norm, ignore, world
        weight = INITIAL * torch.randn(num_classes, running.shape[1], dtype=running.dtype)
        self.weight = nn.Parameter(weight.to(running.device).repeat(len(l2), 1, 1))
        self.bias = nn.Parameter(running.new_zeros(len(l2), num_classes))
        self.register_buffer("running", running)

    def forward(self, features: Tensor, labels: Tensor, shares: Tensor) -> Learnt:
        """Of features [B, h, w, D] with label maps int64 [B, H, W], to which logits are upsampled; changes nothing.

        Args:
            shares: [P, B], what an image's loss, the mean over its pixels, adds to the loss of a head.
        """
        statistics, unbiased = self._statistics(features) if self.batch_norm else (self.running, self.running)
        losses = [  # pixels take the memory, so each head's are made again on the way back
            checkpoint(pixel_loss, self._head(head, features, statistics), labels, self.ignore, use_reentrant=False)
            for head in range(len(self.l2))
        ]
        cross_entropy = (torch.stack(losses) * shares).sum()
        penalty = (self.weight.new_tensor(self.l2) / 2 * self.weight.square().sum(dim=(1, 2))).sum()
        logged = {"loss/cross_entropy": cross_entropy.detach(), "loss/penalty": penalty.detach()}
        return Learnt(cross_entropy + penalty, {name: x / len(self.l2) for name, x in logged.items()}, unbiased)

    @torch.no_grad()
    def logits(self, head: int, features: Tensor) -> Tensor:
        """[B, C, h, w] of one head, by the running statistics."""
        return self._head(head, features.to(self.running.device), self.running)

    def _head(self, head: int, features: Tensor, statistics: Tensor) -> Tensor:
        x = (features - statistics[0]) * (statistics[1] + EPSILON).rsqrt()
        return F.linear(x, self.weight[head], self.bias[head]).movedim(-1, 1)

    @torch.no_grad()
    def _statistics(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance [2, D] over all ranks, biased and unbiased; frozen features take no gradient through it."""
        x = features.flatten(0, 2)
        mean, count = self.world.mean(x.mean(dim=0)), self.world.size * len(x)
        variance = self.world.mean((x - mean).square().mean(dim=0))
        return torch.stack([mean, variance]), torch.stack([mean, variance * count / max(1, count - 1)])


def pixel_loss(logits: Tensor, labels: Tensor, ignore: int) -> Tensor:
    """Cross-entropy [B] of logits [B, C, h, w] upsampled bilinearly to labels [B, H, W]; ignored pixels add nothing."""
    upsampled = F.interpolate(logits, labels.shape[-2:], mode="bilinear", align_corners=False)
    return F.cross_entropy(upsampled, labels, ignore_index=ignore, reduction="none").mean(dim=(1, 2))


@dataclass(frozen=True)
class Probe(Learner):
    """All heads at once. The penalty is in the loss, so that nothing decays."""

    heads: Heads

    @property
    def module(self) -> nn.Module:
        """The heads."""
        return self.heads

    def groups(self) -> Mapping[str, Group]:
        """All parameters alike."""
        return {name: Group(decays=False) for name, _ in self.heads.named_parameters()}

    def gradients(self, passes: Passes, batch: Batch, hyper: Rate) -> Learnt:
        """In one pass."""
        out: Learnt = passes(*batch.inputs)
        return out

    @torch.no_grad()
    def after_step(self, out: Learnt, hyper: Rate) -> None:
        """Batch norm's running statistics, as torch moves them."""
        if self.heads.batch_norm:
            self.heads.running.lerp_(out.statistics, MOMENTUM)


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
        source: what a run does not go on without, in JSON's types: features and settings.
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
            BadInput: the checkpoint is of another model, of other images or settings.
        """
        for name, now in self.source.items():
            if now != (was := state.get(name, now)):
                told = f"{name} is {now!r} here and was {was!r} when it began"
                raise BadInput(f"this is another probe: {told}; give another --out")

    def _shares(self, rows: Sequence[int]) -> Tensor:
        """[P, B], so that the mean over ranks, summed over an epoch, is the mean over the images that a head learns."""
        learnt = (~self.held_back[rows]).float() / (~self.held_back).float().mean()
        half = torch.stack([learnt, torch.ones_like(learnt)]) * (self.world.size / self.batch_size)
        return half.repeat_interleave(self.num_heads // 2, dim=0)


def held_back(labels: Sequence[int], names: Sequence[str], share: float, seed: int) -> Tensor:
    """Which images, bool [N], the penalty is chosen on: a share of each class, at least one and never all.

    Args:
        labels: the class of each; all 0 where images have no class.
        names: of the classes, as a complaint is to call them.

    Raises:
        BadInput: a class with one image.
    """
    held = torch.zeros(len(labels), dtype=torch.bool)
    for name, own in zip(names, shuffled_by_class(np.asarray(labels), len(names), seed), strict=True):
        if len(own) == 1:
            raise BadInput(
                f"{name} has one training image; needed are two, one to learn from and one to choose the penalty on; "
                "add images, or leave it out"
            )
        if len(own):
            held[own[: min(len(own) - 1, max(1, round(share * len(own))))]] = True
    return held
