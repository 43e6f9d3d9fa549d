"""Linear layers on frozen features, P side by side: one for each weight of the penalty l2 / 2 |W|^2.

    LinearHeads   pooled features, standardised -> classes     logistic regression
    PatchHeads    patch features -> batch norm -> classes       DINOv2's linear segmentation: BN, 1x1 convolution

They share no parameter, so one training gives what each would have become alone. Biases are free of the penalty.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from silc.eval.embed import ALONE

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from silc.distributed import World

EPSILON, MOMENTUM, INITIAL = 1e-5, 0.1, 0.01
"""torch's batch norm; deviation of mmsegmentation's initial weights."""


class Learnt(NamedTuple):
    """What the heads make of a batch."""

    loss: Tensor  # [] with gradient, summed over the heads
    metrics: Mapping[str, Tensor]
    statistics: Tensor | None = None  # [2, D], mean and variance (unbiased) of the patches over all ranks


class LinearHeads(nn.Module):
    """P linear classifiers of features less their mean [D] and by their deviation [D]; they begin at 0."""

    mean: Tensor
    std: Tensor

    def __init__(self, l2: Sequence[float], num_classes: int, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        self.l2 = tuple(l2)
        self.weight = nn.Parameter(mean.new_zeros(len(l2), num_classes, len(mean)))
        self.bias = nn.Parameter(mean.new_zeros(len(l2), num_classes))
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)

    def forward(self, features: Tensor, labels: Tensor, shares: Tensor) -> Learnt:
        """Of features [B, D] with labels int64 [B]; `shares` [P, B] say what an image adds to the loss of a head."""
        logits = torch.einsum("bd,pcd->pcb", (features - self.mean) / self.std, self.weight) + self.bias[:, :, None]
        losses = F.cross_entropy(logits, labels.expand(len(logits), -1), reduction="none")  # [P, B]
        return learnt(losses, shares, self.l2, self.weight)

    @torch.no_grad()
    def logits(self, head: int, features: Tensor) -> Tensor:
        """[B, C] of one head."""
        return F.linear((features - self.mean) / self.std, self.weight[head], self.bias[head])


class PatchHeads(nn.Module):
    """P linear classifiers of patches, each behind a batch norm with a gain and a shift of its own.

    Args:
        ignore: the label of pixels that are in no loss.
        world: ranks whose patches are one batch (as SyncBatchNorm has it).
    """

    running: Tensor  # mean and variance [2, D]

    def __init__(
        self, l2: Sequence[float], num_classes: int, width: int, *, ignore: int = 255, world: World = ALONE
    ) -> None:
        super().__init__()
        self.l2, self.ignore, self.world = tuple(l2), ignore, world
        self.gain = nn.Parameter(torch.ones(len(l2), width))
        self.shift = nn.Parameter(torch.zeros(len(l2), width))
        self.weight = nn.Parameter(INITIAL * torch.randn(num_classes, width).repeat(len(l2), 1, 1))
        self.bias = nn.Parameter(torch.zeros(len(l2), num_classes))
        self.register_buffer("running", torch.stack([torch.zeros(width), torch.ones(width)]))

    def forward(self, patches: Tensor, labels: Tensor, shares: Tensor) -> Learnt:
        """Of patches [B, h, w, D] with label maps int64 [B, H, W]; `shares` as in `LinearHeads`. Changes nothing."""
        mean, variance = self._statistics(patches)
        x = (patches - mean) * (variance + EPSILON).rsqrt()
        losses = [  # pixels take the memory, so each head's are made again on the way back
            checkpoint(pixel_loss, self._head(head, x), labels, self.ignore, use_reentrant=False)
            for head in range(len(self.l2))
        ]
        count = self.world.size * x[..., 0].numel()
        unbiased = torch.stack([mean, variance * count / max(1, count - 1)])
        return learnt(torch.stack(losses), shares, self.l2, self.weight)._replace(statistics=unbiased)

    @torch.no_grad()
    def logits(self, head: int, patches: Tensor) -> Tensor:
        """[B, C, h, w] of one head, by the running statistics."""
        return self._head(head, (patches - self.running[0]) * (self.running[1] + EPSILON).rsqrt())

    def _head(self, head: int, x: Tensor) -> Tensor:
        return F.linear(x * self.gain[head] + self.shift[head], self.weight[head], self.bias[head]).movedim(-1, 1)

    @torch.no_grad()
    def _statistics(self, patches: Tensor) -> Tensor:
        """Mean and variance [2, D] over all ranks' patches; features are frozen, so no gradient goes through them."""
        x = patches.flatten(0, 2)
        mean, square = self.world.mean(torch.stack([x.mean(dim=0), x.square().mean(dim=0)]))
        return torch.stack([mean, (square - mean.square()).clamp(min=0)])


def pixel_loss(logits: Tensor, labels: Tensor, ignore: int) -> Tensor:
    """Cross-entropy [B] of logits [B, C, h, w] upsampled bilinearly to labels [B, H, W]; ignored pixels add nothing."""
    upsampled = F.interpolate(logits, labels.shape[-2:], mode="bilinear", align_corners=False)
    return F.cross_entropy(upsampled, labels, ignore_index=ignore, reduction="none").mean(dim=(1, 2))


def learnt(losses: Tensor, shares: Tensor, l2: Sequence[float], weight: Tensor) -> Learnt:
    """The sum over P heads of shared losses [P, B] and penalties of weights [P, C, D]."""
    cross_entropy = (losses * shares).sum()
    penalty = (weight.new_tensor(l2) / 2 * weight.square().sum(dim=(1, 2))).sum()
    metrics = {"loss/cross_entropy": cross_entropy.detach() / len(l2), "loss/penalty": penalty.detach() / len(l2)}
    return Learnt(cross_entropy + penalty, metrics)
