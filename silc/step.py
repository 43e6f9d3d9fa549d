"""The parts of a training step: values of its schedules, its passes, what the losses read, what they return.

Shapes by the legend of `batch.py`. Imports no torch.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor


@dataclass(frozen=True)
class Hyper:
    """The schedules' values for one step."""

    lr: float
    momentum: float
    """lambda of the teacher's average."""
    temperature: float
    """tau_t of the teacher's targets."""

    def logged(self) -> Mapping[str, float]:
        """The values that go into metrics.jsonl."""
        return {"lr": self.lr, "teacher/momentum": self.momentum}


@dataclass(frozen=True)
class Pass:
    """One forward pass through the towers with its backward pass: what it computes; by default a whole step.

    With neither `contrastive` nor `terms` only the text is embedded.
    """

    contrastive: bool = True
    """Whether the pass has the image-text loss."""
    terms: bool = True
    """Whether the pass has the terms of self-supervision."""
    embed_only: bool = False
    """Whether it ends with the embeddings that the image-text loss reads, without the loss."""
    view: int | None = None
    """Index of the only view in this pass, among the views of the image-text loss; None: all of them."""
    fraction: float = 1.0
    """Fraction of the batch, or of the views of the image-text loss, in this pass."""
    text: Tensor | None = None
    """The text's embedding [B, D], from a pass of its own."""
    cotangent: Embeddings | None = None
    """Gradients of the batch's loss by this pass's embeddings, and this pass's share of those by scale and bias."""
    masked: Tensor | None = None
    """Patches masked for the student, int64 [G, B, M]; drawn for all passes at once."""

    @property
    def whole(self) -> bool:
        """Whether the pass is a whole step."""
        return self.contrastive and self.terms and self.view is None and self.cotangent is None and self.fraction == 1.0


class Embeddings(NamedTuple):
    """All that the image-text loss reads: embeddings, not normalised, of the V views that enter it and of the text."""

    images: Tensor  # [V, B, D] student: original and/or global views
    text: Tensor  # [B, D]
    scale: Tensor  # [1]
    bias: Tensor  # [1]


class FactoredLogits(NamedTuple):
    """Logits on prototypes as two factors: a logit is the cosine of a bottleneck and a prototype, not computed yet."""

    bottleneck: Tensor  # [..., C] unit length
    prototypes: Tensor  # [K, C] of any length, only their direction counts


class Targets(NamedTuple):
    """A teacher's targets q = softmax((y.w - c) / tau_t), not computed yet."""

    projection: FactoredLogits  # y and the teacher's prototypes w
    centre: Tensor  # c [K]
    temperature: float  # tau_t


class TermOutput(NamedTuple):
    """The loss of a term of self-supervision, and statistics of its teacher's targets, which show collapse early."""

    loss: Tensor  # [] with gradient
    entropy: Tensor | None = None
    """[] Mean entropy of a target in nats, 0 to ln K. Near ln K: uniform collapse (or a very young teacher)."""
    targets: Tensor | None = None
    """[K] Mean target; the exponential of its entropy over the global batch is the batch-marginal perplexity."""
    logits: Tensor | None = None
    """[K] Mean of the teacher's logits, towards which its centre moves."""


@dataclass(frozen=True)
class StepOutput:
    """The objective's output for a batch. Nothing has been changed yet when it is returned."""

    loss: Tensor  # [] with gradient
    metrics: Mapping[str, Tensor]  # detached scalars, means over this rank
    terms: Mapping[str, TermOutput] = field(default_factory=dict)  # of self-supervision, by name; of this rank's views
    text: Tensor | None = None  # [B, D] with gradient, of a pass that only embeds it
    embeddings: Embeddings | None = None  # of a pass that ends with them
