"""Image-text losses: softmax (CLIP, InfoNCE) and sigmoid (SigLIP). Memory holds a few blocks, for any global batch.

Each loss is a mean over this rank's rows against the columns of all ranks. Averaged over the ranks, as DDP does, value
and gradient are those of one process that holds the global batch.

The ranks form a ring. Each text block circles the ring with its gradient accumulator and returns with every rank's
contribution, so a rank holds one visiting block at a time, for any number of ranks. Logits are computed block by block
and not stored: the gradient is formed in the forward pass. The tensors saved for the backward pass are as large as the
features.

Legend: V image views, B rows on this rank, N = B * ranks, D joint width. Everything is computed in float32.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable

from silc.losses.guards import eager, no_autocast

if TYPE_CHECKING:
    from torch import Tensor

    from silc.distributed import World

SIDE = 1024
"""Rows and columns of a block of logits: 4 MB in float32; at most three blocks exist at a time."""


def softmax_loss(image: Tensor, text: Tensor, scale: Tensor, world: World) -> Tensor:
    """Symmetric InfoNCE (CLIP; SILC paper, L_image_text of SILC-C), mean over the views.

        1/2 [ -1/B sum_i log softmax_j(s x_i.y_j)_i   -1/B sum_i log softmax_j(s y_i.x_j)_i ]

    Args:
        image: x, unit length [..., B, D]; views come first.
        text: y, unit length [B, D].
        scale: s = exp(logit_scale), [1].
        world: the ranks; each sends to the next.

    Returns:
        The loss [], differentiable once.
    """
    with no_autocast(image):
        return _softmax(_views(image), text.float(), scale.float(), world)


def sigmoid_loss(image: Tensor, text: Tensor, scale: Tensor, bias: Tensor, world: World) -> Tensor:
    """Pairwise sigmoid loss (SigLIP, eq. 1; L_image_text of SILC-S), mean over the views.

        -1/B sum_i sum_j log sigmoid(z_ij (s x_i.y_j + b)),   z_ij = +1 on own pairs, -1 elsewhere

    Args:
        image: x, unit length [..., B, D]; views come first.
        text: y, unit length [B, D].
        scale: s = exp(logit_scale), [1].
        bias: b, [1].
        world: the ranks; each sends to the next.

    Returns:
        The loss [], differentiable once.
    """
    with no_autocast(image):
        return _sigmoid(_views(image), text.float(), scale.float(), bias.float(), world)


class _FormedForward(torch.autograd.Function):
    """A loss whose forward pass forms the gradients of its inputs. All inputs but the last are tensors."""

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        # In place, because they are as large as the features; autograd refuses a second backward pass.
        return *(formed.mul_(gradient) for formed in ctx.saved_tensors), None


class _Sigmoid(_FormedForward):
    @staticmethod
    def forward(ctx: Any, image: Tensor, text: Tensor, scale: Tensor, bias: Tensor, world: World) -> Tensor:
        loss, for_bias, for_image = torch.zeros_like(bias), torch.zeros_like(bias), torch.zeros_like(image)
        visitor, owed = text, torch.zeros_like(text)
        for hop in hops(world):
            for view, rows, columns in in_blocks(image):
                x, y = image[view, rows], visitor[columns]
                block_loss, push = _pairwise(torch.addmm(bias, scale * x, y.T), own=hop == 0 and rows == columns)
                loss += block_loss
                for_bias += push.sum()
                for_image[view, rows].addmm_(push, y)
                owed[columns].addmm_(push.T, x)
            visitor, owed = world.shift(visitor, owed)
        num = image.shape[:2].numel()
        ctx.save_for_backward(*_gradients(image, scale, for_image, owed, num), for_bias / num)
        return loss[0] / num


def _pairwise(logits: Tensor, *, own: bool) -> tuple[Tensor, Tensor]:
    """Sum of -log sigmoid(z l) = softplus(-z l) over a block, and its derivative -z sigmoid(-z l) in place of l."""
    if own:
        logits.diagonal().neg_()
    loss = F.softplus(logits).sum()
    logits.sigmoid_()
    if own:
        logits.diagonal().neg_()
    return loss, logits


class _Softmax(_FormedForward):
    @staticmethod
    def forward(ctx: Any, image: Tensor, text: Tensor, scale: Tensor, world: World) -> Tensor:
        over_texts, over_images = _Denominator.of(image), _Denominator.of(image)  # the second travels with the texts
        own_logits, visitor = image.new_empty(image.shape[:2]), text
        for hop in hops(world):
            for view, rows, columns in in_blocks(image):
                logits = (scale * image[view, rows]) @ visitor[columns].T
                over_texts.at(view, rows).add(logits, dim=1)
                over_images.at(view, columns).add(logits, dim=0)
                if hop == 0 and rows == columns:
                    own_logits[view, rows] = logits.diagonal()
                del logits  # before the next one is made
            visitor, *travelled = world.shift(visitor, *over_images)
            over_images = _Denominator(*travelled)

        for_image, owed = torch.zeros_like(image), torch.zeros_like(text)
        for hop in hops(world):
            for view, rows, columns in in_blocks(image):
                x, y = image[view, rows], visitor[columns]
                logits = (scale * x) @ y.T
                push = over_texts.at(view, rows).share_(logits.clone(), dim=1)
                push += over_images.at(view, columns).share_(logits, dim=0)
                if hop == 0 and rows == columns:
                    push.diagonal().sub_(2)
                for_image[view, rows].addmm_(push, y)
                owed[columns].addmm_(push.T, x)
                del logits, push
            visitor, owed, *travelled = world.shift(visitor, owed, *over_images)
            over_images = _Denominator(*travelled)
        num = 2 * image.shape[:2].numel()
        ctx.save_for_backward(*_gradients(image, scale, for_image, owed, num))
        return (over_texts.surplus(own_logits) + over_images.surplus(own_logits)).sum() / num


# A compiler would unroll the blocks, and cannot trace what is sent between ranks.
_sigmoid, _softmax = eager(_Sigmoid.apply), eager(_Softmax.apply)


class _Denominator(NamedTuple):
    """Sums of exp(logit), stored as exp(top) * total: no sum overflows, and the largest term loses no digit."""

    top: Tensor  # [V, B] the largest logit so far
    total: Tensor  # [V, B]

    @classmethod
    def of(cls, image: Tensor) -> _Denominator:
        """Empty sums for features [V, B, D]."""
        return cls(image.new_full(image.shape[:2], -torch.inf), image.new_zeros(image.shape[:2]))

    def at(self, view: int, items: slice) -> _Denominator:
        """A view of the sums of these items; adding to it changes the whole."""
        return _Denominator(self.top[view, items], self.total[view, items])

    def add(self, logits: Tensor, dim: int) -> None:
        """Add exp(logit) of a block, summed over one of its axes, to the sums."""
        top = torch.maximum(self.top, logits.amax(dim))
        self.total.mul_((self.top - top).exp_()).add_((logits - top.unsqueeze(dim)).exp_().sum(dim))
        self.top.copy_(top)

    def share_(self, logits: Tensor, dim: int) -> Tensor:
        """Softmax of a block over one of its axes, in place; the sums must already cover all blocks."""
        return logits.sub_(self.top.unsqueeze(dim)).exp_().div_(self.total.unsqueeze(dim))

    def surplus(self, logits: Tensor) -> Tensor:
        """-log softmax of one logit for each sum, [V, B]: log of the sum minus the logit."""
        return self.top - logits + self.total.log()


def _views(image: Tensor) -> Tensor:
    """Reshape [..., B, D] to float32 [V, B, D]."""
    return image.float().reshape(-1, *image.shape[-2:])


def in_blocks(image: Tensor) -> Iterable[tuple[int, slice, slice]]:
    """View, rows and columns of every block of the logits [V, B, B] with one visiting text block."""
    num_views, num, _ = image.shape
    parts = [slice(start, min(start + SIDE, num)) for start in range(0, num, SIDE)]
    return ((view, rows, columns) for view in range(num_views) for rows in parts for columns in parts)


def hops(world: World) -> Iterable[int]:
    """One hop for each rank whose texts visit this rank, its own first. `plan/repeats.py` replaces it to run fewer."""
    return range(world.size)


def _gradients(
    image: Tensor, scale: Tensor, for_image: Tensor, for_text: Tensor, num: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of image, text and scale, where P [V, B, N] is `num` times the gradient of the logits.

    Args:
        for_image: P y [V, B, D]; overwritten.
        for_text: P^T x [B, D]; overwritten.
    """
    # sum_ij P_ij x_i.y_j
    for_scale = torch.einsum("vbd,vbd->vb", image, for_image).sum().expand_as(scale) / num
    return for_image.mul_(scale / num), for_text.mul_(scale / num), for_scale
