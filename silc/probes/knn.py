"""k nearest neighbours by DINO's weighted votes (facebookresearch/dino: eval_knn.py); nothing is trained."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch.nn.functional as F

from silc.types import BadInput

if TYPE_CHECKING:
    from torch import Tensor

BLOCK = 2**25
"""Similarities held at a time."""


def votes(
    train: Tensor,
    labels: Tensor,
    queries: Tensor,
    num_classes: int,
    *,
    k: int = 20,
    temperature: float = 0.07,
    block: int = BLOCK,
) -> Tensor:
    """Scores [M, C]: each of a query's k nearest training images votes for its class with exp(cosine / temperature).

    Which of equally near images is the k-th is not defined, as in DINO and scikit-learn.

    Args:
        train: features [N, D] of any length; their direction counts.
        labels: int64 [N], in [0, C).
        queries: [M, D].

    Raises:
        BadInput: fewer than k training images.

    >>> train, labels = torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 1])
    >>> votes(train, labels, torch.tensor([[3.0, 0.0]]), 2, k=2, temperature=1.0)
    tensor([[2.7183, 1.0000]])
    """
    if len(train) < k:
        raise BadInput(f"k is {k}, but there are {len(train)} training images; give at most that")
    train, scores = F.normalize(train, dim=1), queries.new_zeros(len(queries), num_classes)
    size = max(1, block // len(train))
    for some, own in zip(F.normalize(queries, dim=1).split(size), scores.split(size), strict=True):
        similarity, nearest = (some @ train.T).topk(k, dim=1)
        own.scatter_add_(1, labels[nearest], (similarity / temperature).exp())
    return scores
