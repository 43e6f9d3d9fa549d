"""Local-to-global self-distillation: the student's local views against the teacher's global ones.

Legend: G global views, L local views, B images, K prototypes. Everything is computed in float32.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from silc.losses.precision import no_autocast

if TYPE_CHECKING:
    from torch import Tensor


def distill_loss(
    student: Tensor, targets: Tensor, temperature: float, *, student_globals: Tensor | None = None
) -> Tensor:
    """Mean cross-entropy over the G x L pairs of views (SILC paper, L_self_dist).

        for g in globals: for l in locals:                       # 2 x 8 = 16 pairs
            loss += -mean_b sum_k q[g, b, k] log softmax(s[l, b] / tau_s)[k]
        loss /= G * L

    The cross-entropy is linear in q, so the pairs collapse: the sum over g enters once, as the mean target.

    Args:
        student: s, logits of the local views [L, B, K].
        targets: q, the teacher's probabilities of the global views [G, B, K]; no gradient flows into them.
        temperature: tau_s.
        student_globals: logits of the student's own global views [G, B, K]; with them the pairs are DINO's, where
            a view is never set against itself: G L + G (G - 1) pairs.

    Returns:
        The loss [].
    """
    num_global, num_local = len(targets), len(student)
    with no_autocast(student):
        targets = targets.detach().float()
        total = targets.sum(dim=0)  # [B, K]
        loss = num_global * num_local * cross_entropy(student, total / num_global, temperature)
        num_pairs = num_global * num_local
        if student_globals is not None:
            others = (total - targets) / (num_global - 1)  # [G, B, K]: for each view the mean of the other ones
            loss = loss + num_global * (num_global - 1) * cross_entropy(student_globals, others, temperature)
            num_pairs += num_global * (num_global - 1)
        return loss / num_pairs


def cross_entropy(logits: Tensor, targets: Tensor, temperature: float) -> Tensor:
    """Mean over all but the last axis of -sum_k q log softmax(s/tau) = logsumexp(s/tau) - q.(s/tau), as sum q = 1."""
    scaled = logits.float() / temperature  # [..., K]
    return (scaled.logsumexp(dim=-1) - torch.einsum("...k,...k->...", scaled, targets.expand_as(scaled))).mean()


@dataclass(frozen=True)
class TargetStats:
    """What the teacher's targets look like; how a collapse is seen early."""

    entropy: Tensor
    """Mean entropy of a target in nats, 0 to ln K. Near ln K: uniform collapse (or a very young teacher)."""
    mean: Tensor
    """Mean target [K]; the exponential of its entropy over the global batch is the batch-marginal perplexity."""


def target_stats(targets: Tensor) -> TargetStats:
    """Entropy and mean of the teacher's probabilities [G, B, K]."""
    entropy = torch.special.entr(targets.float()).sum(dim=-1).mean()
    return TargetStats(entropy, targets.float().mean(dim=(0, 1)))


def perplexity(distribution: Tensor) -> Tensor:
    """exp(entropy) of a distribution [K]: 1 when one prototype takes all, K when all are used alike."""
    exponential: Tensor = torch.special.entr(distribution).sum().exp()
    return exponential
