"""DINO's loss on all logits, as its users write it: a double loop over pairs of views."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch.nn.functional as F

if TYPE_CHECKING:
    from torch import Tensor


def double_loop(student: Tensor, teacher: Tensor, centre: Tensor, tau_s: float, tau_t: float) -> Tensor:
    """Mean loss over all pairs, of logits [L, B, K] and [G, B, K], log-softmax for every pair: DINO's own form."""
    total = student.new_zeros(())
    for q in ((teacher - centre) / tau_t).softmax(dim=-1).detach():
        for logits in student / tau_s:
            total = total - (q * F.log_softmax(logits, dim=-1)).sum(dim=-1).mean()
    return total / (len(student) * len(teacher))


def hoisted_loop(student: Tensor, teacher: Tensor, centre: Tensor, tau_s: float, tau_t: float) -> Tensor:
    """The same with one log-softmax for each view, as DINOv2 has it: the fastest form on all logits."""
    total = student.new_zeros(())
    targets = ((teacher - centre) / tau_t).softmax(dim=-1).detach()
    for log_p in F.log_softmax(student / tau_s, dim=-1):
        for q in targets:
            total = total - (q * log_p).sum(dim=-1).mean()
    return total / (len(student) * len(teacher))
