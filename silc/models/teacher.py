"""The EMA teacher: image tower, heads and centres. Nothing else in the project writes them.

    F_T <- lambda F_T + (1 - lambda) F_S          every step, lambda fixed
    c   <- m c + (1 - m) mean over the batch of p_t

There is no schedule: with lambda going to 1, the teacher would stop learning from the text (paper).
"""

from __future__ import annotations

import copy
from operator import attrgetter
from typing import TYPE_CHECKING

import torch
from torch import nn

from silc.step import Targets

if TYPE_CHECKING:
    from torch import Tensor

    from silc.models.head import DistillHead
    from silc.models.image import ImageTower


class AveragedHead(nn.Module):
    """The average of a student's head, and the centre of its logits; together they turn features into targets.

    Args:
        head: the student's head; copied, never shared. None for a teacher that is only evaluated.
    """

    centre: Tensor

    def __init__(self, head: DistillHead | None) -> None:
        super().__init__()
        self.head = copy.deepcopy(head)
        self.requires_grad_(False)
        num_prototypes = 0 if head is None else len(head.prototypes)
        self.register_buffer("centre", torch.zeros(num_prototypes, dtype=torch.float32))

    @torch.no_grad()
    def targets(self, features: Tensor, temperature: float) -> Targets:
        """softmax((p_t - c) / tau_t) of features [..., D]; changes no state."""
        assert self.head is not None
        return Targets(self.head(features), self.centre, temperature)

    @torch.no_grad()
    def update_head(self, head: DistillHead | None, momentum: float) -> None:
        """One EMA step towards the student's head."""
        if self.head is not None and head is not None:
            _average(self.head, head, momentum)

    @torch.no_grad()
    def update_centre(self, batch_mean: Tensor, momentum: float) -> None:
        """Move the centre towards `batch_mean` [K], the mean of p_t over the global batch."""
        self.centre.lerp_(batch_mean.float(), 1 - momentum)


class Teacher(AveragedHead):
    """The average of a student's image tower and, with self-distillation, of its head.

    Args:
        visual: the student's image tower; copied, never shared. None for head-only EMA (TIPSv2): the teacher's tower
            is the student's own.
        head: the student's head, or None when the teacher is only evaluated.
    """

    def __init__(self, visual: ImageTower | None, head: DistillHead | None) -> None:
        super().__init__(head)
        self.visual = copy.deepcopy(visual)
        self.requires_grad_(False)

    @torch.no_grad()
    def update(self, visual: ImageTower, head: DistillHead | None, momentum: float) -> None:
        """One EMA step towards the student, in the teacher's own (float32) precision."""
        if self.visual is not None:
            _average(self.visual, visual, momentum)
        self.update_head(head, momentum)


def _average(average: nn.Module, student: nn.Module, momentum: float) -> None:
    """average <- momentum average + (1 - momentum) student; at momentum 0 an exact copy of the student."""
    # By name, not by list: if the student's matrix is a sum (`models/lora.py`), the sum is averaged.
    names, averages = zip(*average.named_parameters(), strict=True)
    students: list[Tensor] = [attrgetter(name)(student) for name in names]
    torch._foreach_lerp_(list(averages), students, 1 - momentum)


def half_life_of(num_examples: float) -> float:
    """Half-life of the average, in examples, for a run of `num_examples`: 330k, or 5 % of the run if that is less.

    330k is the paper's momentum at its batch size. In a short run it would leave the teacher near its initialisation.
    """
    return min(330_000.0, 0.05 * num_examples)


def momentum_of(half_life: float, batch_size: int) -> float:
    """lambda = 2^(-batch/h): half of the average is renewed in h examples, for any batch size."""
    return float(2.0 ** (-batch_size / half_life))
