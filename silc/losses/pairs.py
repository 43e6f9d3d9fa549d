"""The image-text loss for a matrix of scores, where a pair's score is not simply the product of two features.

TCL pools an image again for each text, and PACL weights its patches by each text. `contrastive.py` cannot compute such
scores, because it computes logits from features, block by block.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F

from silc.losses.guards import no_autocast

if TYPE_CHECKING:
    from torch import Tensor

    from silc.distributed import World


def matching_loss(scores: Tensor, world: World) -> Tensor:
    """Symmetric InfoNCE [] of scores [B, N]: this rank's B images with the N texts of all ranks, in rank order.

    Averaged over the ranks, as DDP does, value and gradient are those of one process that holds the global batch.
    """
    with no_autocast(scores):
        num, first = len(scores), world.rank * len(scores)
        own = torch.arange(first, first + num, device=scores.device)
        scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
        # Each rank gathers [N, N] and reads B columns: 64 MB at 4,096 pairs, little compared with computing the scores.
        of_texts = gathered(scores, world)[:, first : first + num].T
        return (F.cross_entropy(scores, own) + F.cross_entropy(of_texts, own)) / 2


def gathered(x: Tensor, world: World) -> Tensor:
    """[B, ...] on each rank -> [B * size, ...] in rank order, with the gradient of every rank's loss."""
    found: Tensor = x if world.size == 1 else _Gathered.apply(x, world)
    return found


class _Gathered(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, world: World) -> Tensor:
        ctx.world = world
        return world.gather(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        world, num = ctx.world, len(gradient) // ctx.world.size
        return (world.mean(gradient) * world.size)[world.rank * num : (world.rank + 1) * num], None
