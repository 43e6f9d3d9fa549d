"""The distillation loss against a loop over the pairs in float64, and against lightly's DINO loss."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from lightly.loss import DINOLoss
from torch import Tensor

from silc.losses.distill import distill_loss, perplexity, target_stats

TAU_T, TAU_S = 0.04, 0.1
SHAPES = [(2, 8, 3, 11), (2, 4, 5, 64), (1, 8, 2, 7), (3, 2, 4, 9)]  # G, L, B, K


def logits(num_global: int, num_local: int, batch: int, k: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Teacher [G, B, K], student locals [L, B, K], student globals [G, B, K] as cosines, centre [K]."""
    generator = torch.Generator().manual_seed(k)
    draw = lambda *shape: torch.rand(*shape, generator=generator, dtype=torch.float64) * 2 - 1  # noqa: E731
    return draw(num_global, batch, k), draw(num_local, batch, k), draw(num_global, batch, k), draw(k) * 0.1


def loop(teacher: Tensor, student: Tensor, centre: Tensor, *, globals_: Tensor | None = None) -> float:
    """The definition, in numpy float64, one pair at a time."""
    t, c = teacher.numpy(), centre.numpy()
    views = [(None, view) for view in student.numpy()]
    if globals_ is not None:
        views += list(enumerate(globals_.numpy()))
    total, pairs = 0.0, 0
    for g in range(len(t)):
        for same, s in views:
            if same == g:
                continue
            for b in range(t.shape[1]):
                q = np.exp((t[g, b] - c) / TAU_T)
                q /= q.sum()
                p = np.exp(s[b] / TAU_S)
                p /= p.sum()
                total += -(q * np.log(p)).sum() / t.shape[1]
            pairs += 1
    return total / pairs


@pytest.mark.parametrize(
    ("shape", "with_globals"),
    [(shape, False) for shape in SHAPES] + [(shape, True) for shape in SHAPES if shape[0] > 1],
)
def test_equals_the_loop_over_pairs(shape: tuple[int, int, int, int], with_globals: bool) -> None:
    teacher, student, student_globals, centre = logits(*shape)
    given = student_globals if with_globals else None
    targets = ((teacher - centre) / TAU_T).softmax(-1)
    value = distill_loss(student, targets, TAU_S, student_globals=given)
    assert value.item() == pytest.approx(loop(teacher, student, centre, globals_=given), rel=1e-5)


@pytest.mark.parametrize("shape", [s for s in SHAPES if s[0] == 2])
def test_sixteen_pairs_equal_lightly(shape: tuple[int, int, int, int]) -> None:
    """lightly drops pairs of equal index: one teacher view a call, and a dummy in the student's slot 0."""
    teacher, student, _, centre = (t.float() for t in logits(*shape))
    dino = DINOLoss(output_dim=shape[3], teacher_temp=TAU_T, student_temp=TAU_S)
    student.requires_grad_()
    calls = []
    for view in teacher:
        dino.center = centre.view(1, 1, -1).clone()
        calls.append(dino([view], [torch.zeros_like(view), *student], teacher_temp=TAU_T))
    expected = torch.stack(calls).mean()
    (reference,) = torch.autograd.grad(expected, student)

    targets = ((teacher - centre) / TAU_T).softmax(-1)
    value = distill_loss(student, targets, TAU_S)
    (gradient,) = torch.autograd.grad(value, student)
    torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(gradient, reference, rtol=1e-4, atol=1e-7)


def test_eighteen_pairs_equal_lightly() -> None:
    """DINO's own form: the student's globals too, never against themselves."""
    teacher, student, student_globals, centre = (t.float() for t in logits(2, 8, 3, 32))
    dino = DINOLoss(output_dim=32, teacher_temp=TAU_T, student_temp=TAU_S)
    dino.center = centre.view(1, 1, -1).clone()
    expected = dino([*teacher], [*student_globals, *student], teacher_temp=TAU_T)
    targets = ((teacher - centre) / TAU_T).softmax(-1)
    value = distill_loss(student, targets, TAU_S, student_globals=student_globals)
    torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-6)


def test_targets_take_no_gradient() -> None:
    teacher, student, _, _ = logits(2, 4, 3, 8)
    teacher.requires_grad_()
    student.requires_grad_()
    distill_loss(student, teacher.softmax(-1), TAU_S).backward()
    assert teacher.grad is None
    assert student.grad is not None


def test_uniform_plateau_is_ln_k() -> None:
    """The signature of a collapse: uniform student and teacher give ln K exactly, 11.09 for K = 65,536."""
    uniform = torch.full((2, 3, 65_536), 1 / 65_536)
    value = distill_loss(torch.zeros(8, 3, 65_536), uniform, TAU_S)
    assert value.item() == pytest.approx(math.log(65_536), rel=1e-6)
    assert value.item() == pytest.approx(11.0904, abs=1e-4)


def test_statistics_of_targets() -> None:
    """Half of the images on each of two prototypes: no entropy each, perplexity 2 together."""
    targets = torch.zeros(2, 4, 5)
    targets[:, :2, 0] = 1
    targets[:, 2:, 3] = 1
    stats = target_stats(targets)
    assert stats.entropy.item() == 0
    assert perplexity(stats.mean).item() == pytest.approx(2)
    even = target_stats(torch.full((2, 4, 5), 0.2))
    assert even.entropy.item() == pytest.approx(math.log(5))
    assert perplexity(even.mean).item() == pytest.approx(5)
