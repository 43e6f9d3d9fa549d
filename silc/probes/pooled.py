"""Classification by pooled features: k nearest neighbours, and logistic regression."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch
import torch.nn.functional as F

from silc.errors import BadInput
from silc.eval.classify import classified
from silc.eval.embed import ALONE, image_features
from silc.probes.learner import Heads, held_back

if TYPE_CHECKING:
    from torch import Tensor

    from silc.distributed import World
    from silc.eval.datasets import ClassificationSet
    from silc.predict import Model
    from silc.probes.config import ProbeConfig
    from silc.records import Evaluation

BLOCK = 2**25
"""Similarities held at a time."""


def pooled(model: Model, data: ClassificationSet, batch_size: int, world: World = ALONE) -> tuple[Tensor, Tensor]:
    """Features [N, W] before projection and normalisation, by the model's own preprocessing, and labels int64 [N].

    Ranks share the work, and all have the result.

    Raises:
        BadInput: features that are not finite.
    """
    features = image_features(model, data.images, model.preprocess, batch_size, pooled=True, world=world)
    return features, torch.tensor(data.labels)


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

    DINO's k-NN (facebookresearch/dino: eval_knn.py). Which of equally near images is the k-th is not defined.

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


class Classification:
    """Logistic regression: what is learnt from, the heads, and how one of them is scored."""

    task, how = "linear_probe_classification", "logistic regression on pooled features, standardised"
    unread: ClassVar = {"segmentation_batch"}

    def __init__(
        self, config: ProbeConfig, model: Model, train: ClassificationSet, test: ClassificationSet, world: World
    ) -> None:
        self.model, self.test, self.resize = model, test, model.preprocess.resize
        self.batch_size = config.train.batch_size
        names = [f"the class '{name}' of {train.name}" for name in train.classes]
        self.held_back = held_back(train.labels, names, config.held_back, config.train.seed)
        self.features, self.labels = pooled(model, train, config.feature_batch, world)
        self.unseen, _ = pooled(model, test, config.feature_batch, world)

    def heads(self, l2: Sequence[float]) -> Heads:
        """One for each penalty."""
        statistics = torch.stack([self.features.mean(dim=0), self.features.var(dim=0, correction=0)])
        return Heads(l2, len(self.test.classes), statistics)

    def batch(self, rows: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Features [B, 1, 1, W] and labels [B, 1, 1] of training images."""
        return self.features[rows, None, None], self.labels[rows, None, None]

    def score(self, heads: Heads, head: int) -> float:
        """Accuracy of a head on the images held back."""
        logits = heads.logits(head, self.features[self.held_back, None, None]).flatten(1).cpu()
        return (logits.argmax(dim=1) == self.labels[self.held_back]).double().mean().item()

    def evaluation(self, heads: Heads, head: int, protocol: Mapping[str, Any]) -> Evaluation:
        """A head on the test images."""
        logits = heads.logits(head, self.unseen[:, None, None]).flatten(1).cpu()
        return classified(self.task, self.test, logits, protocol, self.model.name)
