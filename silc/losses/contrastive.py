"""Image-text losses: softmax (CLIP, InfoNCE) and sigmoid (SigLIP).

Each is a mean over this rank's rows against the columns of all ranks, and `gather` carries gradient; averaged over
the ranks, as DDP does, value and gradient are those of one process that holds the global batch.

Legend: B rows on this rank, N = B * ranks, D joint width. Everything is computed in float32.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from silc.losses.precision import no_autocast

if TYPE_CHECKING:
    from torch import Tensor

Gather = Callable[["Tensor"], "Tensor"]


def softmax_loss(image: Tensor, text: Tensor, scale: Tensor, *, gather: Gather, rank: int = 0) -> Tensor:
    """Symmetric InfoNCE (CLIP; SILC paper, L_image_text of SILC-C).

        1/2 [ -1/B sum_i log softmax_j(s x_i.y_j)_i   -1/B sum_i log softmax_j(s y_i.x_j)_i ]

    Args:
        image: x, unit length [B, D].
        text: y, unit length [B, D].
        scale: s = exp(logit_scale), [1].
        gather: [B, D] -> [N, D] over the ranks, with gradient.
        rank: whose rows these are.

    Returns:
        The loss [].
    """
    with no_autocast(image):
        image, text, scale = image.float(), text.float(), scale.float()
        labels = rank * len(image) + torch.arange(len(image), device=image.device)
        from_image = F.cross_entropy(scale * image @ gather(text).T, labels)
        from_text = F.cross_entropy(scale * text @ gather(image).T, labels)
        return (from_image + from_text) / 2


def sigmoid_loss(image: Tensor, text: Tensor, scale: Tensor, bias: Tensor, *, gather: Gather, rank: int = 0) -> Tensor:
    """Pairwise sigmoid loss (SigLIP, eq. 1; L_image_text of SILC-S).

        -1/B sum_i sum_j log sigmoid(z_ij (s x_i.y_j + b)),   z_ij = +1 on own pairs, -1 elsewhere

    Args:
        image: x, unit length [B, D].
        text: y, unit length [B, D].
        scale: s = exp(logit_scale), [1].
        bias: b, [1].
        gather: [B, D] -> [N, D] over the ranks, with gradient.
        rank: whose rows these are.

    Returns:
        The loss [].
    """
    with no_autocast(image):
        image, text, scale, bias = image.float(), text.float(), scale.float(), bias.float()
        logits = scale * image @ gather(text).T + bias  # [B, N]
        own = rank * len(image) + torch.arange(len(image), device=image.device)
        # log sigmoid(z l) summed over j: every pair as a negative, then the own pair turned around,
        # log sigmoid(l) - log sigmoid(-l) = l.
        as_negatives = F.logsigmoid(-logits).sum(dim=1)
        return -(as_negatives + logits.gather(1, own[:, None])[:, 0]).mean()
