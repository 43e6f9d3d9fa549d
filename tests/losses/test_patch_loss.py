"""The masked-patch loss against a float64 loop and lightly's, forward and gradient."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from silc.losses.distill import patch_loss
from silc.step import FactoredLogits, Targets

TAU_T, TAU_S = 0.04, 0.1
SHAPES = [(1, 3, 4, 7), (2, 2, 9, 16), (2, 5, 1, 33)]  # V, B, M, K


def logits(shape: tuple[int, ...]) -> tuple[Tensor, Tensor, Tensor]:
    """Teacher and student [V, B, M, K] as cosines, centre [K]."""
    generator = torch.Generator().manual_seed(shape[-1])
    draw = lambda *sizes: torch.rand(*sizes, generator=generator, dtype=torch.float64) * 2 - 1  # noqa: E731
    return draw(*shape), draw(*shape), draw(shape[-1]) * 0.1


def loss_of(student: Tensor, teacher: Tensor, centre: Tensor) -> Tensor:
    """The loss of logits, as products with prototypes that are the axes."""
    axes = torch.eye(len(centre), dtype=centre.dtype)
    return patch_loss(FactoredLogits(student, axes), Targets(FactoredLogits(teacher, axes), centre, TAU_T), TAU_S).loss


@pytest.mark.parametrize("shape", SHAPES)
def test_equals_the_loop_over_patches(shape: tuple[int, ...]) -> None:
    """Value, and gradient (softmax(s / tau) - q) / tau over the number of patches, in numpy float64."""
    teacher, student, centre = logits(shape)
    total, gradient = 0.0, np.zeros(shape)
    count = shape[0] * shape[1] * shape[2]
    for place in np.ndindex(*shape[:3]):
        q = np.exp((teacher[place].numpy() - centre.numpy()) / TAU_T)
        q /= q.sum()
        p = np.exp(student[place].numpy() / TAU_S)
        p /= p.sum()
        total += -(q * np.log(p)).sum() / count
        gradient[place] = (p - q) / TAU_S / count
    student.requires_grad_()
    value = loss_of(student, teacher, centre)
    value.backward()
    assert value.item() == pytest.approx(total, rel=1e-5)
    np.testing.assert_allclose(student.grad.numpy(), gradient, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("shape", SHAPES)
def test_equals_lightly(shape: tuple[int, ...]) -> None:
    """lightly's iBOT loss takes masked tokens in a row and a mask that says how many each image has."""
    from lightly.loss import IBOTPatchLoss

    teacher, student, centre = (t.float() for t in logits(shape))
    num_views, num, num_masked, k = shape
    mask = torch.zeros(num_views * num, 2, 2 * num_masked, dtype=torch.bool)
    mask[:, 0, ::2] = True
    ibot = IBOTPatchLoss(output_dim=k, teacher_temp=TAU_T, student_temp=TAU_S)
    ibot.center.center = centre.view(1, -1).clone()
    student.requires_grad_()
    expected = ibot(teacher.reshape(-1, k), student.reshape(-1, k), mask)
    (reference,) = torch.autograd.grad(expected, student)
    value = loss_of(student, teacher, centre)
    (gradient,) = torch.autograd.grad(value, student)
    torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(gradient, reference, rtol=1e-4, atol=1e-7)


def test_targets_take_no_gradient() -> None:
    teacher, student, centre = logits((1, 2, 3, 8))
    teacher.requires_grad_()
    student.requires_grad_()
    loss_of(student, teacher, centre).backward()
    assert teacher.grad is None
    assert student.grad is not None
