"""Linear layers as a `Learner` of the engine (training/protocols.py): P heads side by side, one for each weight of the
penalty. The heads share no parameter, so training them together gives the same heads as training each alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from silc.training.protocols import Learner

if TYPE_CHECKING:
    from torch import Tensor

    from silc.distributed import World
    from silc.training.protocols import Passes
    from silc.training.rows import TensorBatch
    from silc.training.schedules import Rate

EPSILON, MOMENTUM, INITIAL = 1e-5, 0.1, 0.01
"""Numbers of torch's batch norm; standard deviation of the initial weights (mmsegmentation's). With initial weights of
0, rounding alone would decide about classes that a batch lacks, because batch norm gives zero means."""


class Learnt(NamedTuple):
    """Output of the heads for a batch."""

    loss: Tensor  # [] with gradient, summed over the heads
    metrics: Mapping[str, Tensor]
    statistics: Tensor  # [2, D], what the running ones move towards


class Heads(nn.Module, Learner):
    """P linear classifiers of normalised patches, one for each penalty l2 / 2 |W|^2 (not on biases); all begin equal.

    Pooled features are images of one patch. Batch norm has no gain and no shift, because the layers after it have both.

    Args:
        running: mean and variance [2, D] of the features, or the first running statistics of batch norm.
        batch_norm: ranks over which training computes batch statistics (as SyncBatchNorm); None: it uses `running`.
        ignore: the label of pixels that add nothing to the loss.
    """

    running: Tensor

    def __init__(
        self, l2: Sequence[float], num_classes: int, running: Tensor, batch_norm: World | None = None, ignore: int = -1
    ) -> None:
        super().__init__()
        self.l2, self.batch_norm, self.ignore = tuple(l2), batch_norm, ignore
        weight = INITIAL * torch.randn(num_classes, running.shape[1], dtype=running.dtype)
        self.weight = nn.Parameter(weight.to(running.device).repeat(len(l2), 1, 1))
        self.bias = nn.Parameter(running.new_zeros(len(l2), num_classes))
        self.register_buffer("running", running)

    def forward(self, features: Tensor, labels: Tensor, shares: Tensor) -> Learnt:
        """Loss for features [B, h, w, D] and labels int64 [B, H, W], to which logits are upsampled; changes no state.

        Args:
            shares: [P, B], weight of an image's loss (the mean over its pixels) in the loss of a head.
        """
        statistics, unbiased = self._statistics(features)
        losses = [  # logits of pixels take the memory: the backward pass computes them again
            checkpoint(pixel_loss, logits, labels, self.ignore, use_reentrant=False)
            for logits in (self._logits(head, features, statistics) for head in range(len(self.l2)))
        ]
        cross_entropy = (torch.stack(losses) * shares).sum()
        penalty = (self.weight.new_tensor(self.l2) / 2 * self.weight.square().sum(dim=(1, 2))).sum()
        logged = {"loss/cross_entropy": cross_entropy.detach(), "loss/penalty": penalty.detach()}
        return Learnt(cross_entropy + penalty, {name: x / len(self.l2) for name, x in logged.items()}, unbiased)

    @torch.no_grad()
    def logits(self, head: int, features: Tensor) -> Tensor:
        """Logits [B, C, h, w] of one head, with the running statistics."""
        return self._logits(head, features.to(self.running.device), self.running)

    @property
    def module(self) -> nn.Module:
        """The heads themselves."""
        return self

    def gradients(self, passes: Passes, batch: TensorBatch, hyper: Rate) -> Learnt:
        """Loss and gradients of the whole batch in one pass."""
        out: Learnt = passes(*batch.inputs)
        return out

    @torch.no_grad()
    def after_step(self, out: Learnt, hyper: Rate) -> None:
        """Update batch norm's running statistics as torch does."""
        self.running.lerp_(out.statistics, MOMENTUM)

    def _logits(self, head: int, features: Tensor, statistics: Tensor) -> Tensor:
        x = (features - statistics[0]) * (statistics[1] + EPSILON).rsqrt()
        return F.linear(x, self.weight[head], self.bias[head]).movedim(-1, 1)

    @torch.no_grad()
    def _statistics(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance [2, D], with biased and with unbiased variance; no gradient, as features are frozen."""
        if self.batch_norm is None:
            return self.running, self.running
        x, world = features.flatten(0, 2), self.batch_norm
        mean, count = world.mean(x.mean(dim=0)), world.size * len(x)
        variance = world.mean((x - mean).square().mean(dim=0))
        return torch.stack([mean, variance]), torch.stack([mean, variance * count / max(1, count - 1)])


def pixel_loss(logits: Tensor, labels: Tensor, ignore: int) -> Tensor:
    """Cross-entropy [B] of logits [B, C, h, w] upsampled bilinearly to labels [B, H, W]; ignored pixels add nothing."""
    upsampled = F.interpolate(logits, labels.shape[-2:], mode="bilinear", align_corners=False)
    return F.cross_entropy(upsampled, labels, ignore_index=ignore, reduction="none").mean(dim=(1, 2))
