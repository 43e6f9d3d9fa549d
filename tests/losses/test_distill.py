"""The distillation loss against a loop over the pairs in float64, and against lightly's DINO loss."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.baselines.dino import double_loop, hoisted_loop
from silc.losses import distill
from silc.losses.distill import distill_loss, other_views, perplexity
from silc.step import FactoredLogits, Targets

TAU_T, TAU_S = 0.04, 0.1
SHAPES = [(2, 8, 3, 11), (2, 4, 5, 64), (1, 8, 2, 7), (3, 2, 4, 9)]  # G, L, B, K


def logits(num_global: int, num_local: int, batch: int, k: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Teacher [G, B, K], student locals [L, B, K], student globals [G, B, K] as cosines, centre [K]."""
    generator = torch.Generator().manual_seed(k)
    draw = lambda *shape: torch.rand(*shape, generator=generator, dtype=torch.float64) * 2 - 1  # noqa: E731
    return draw(num_global, batch, k), draw(num_local, batch, k), draw(num_global, batch, k), draw(k) * 0.1


def outright(values: Tensor) -> FactoredLogits:
    """Logits [..., K] as a product: with prototypes that are the axes."""
    return FactoredLogits(values, torch.eye(values.shape[-1], dtype=values.dtype))


def targets_of(teacher: Tensor, centre: Tensor) -> Targets:
    return Targets(outright(teacher), centre, TAU_T)


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
    given, shares = student_globals if with_globals else None, None
    views = student
    if given is not None:
        views, shares = torch.cat([student, given]), other_views(len(student), len(given), torch.device("cpu"))
    value = distill_loss(outright(views), targets_of(teacher, centre), TAU_S, shares).loss
    assert value.item() == pytest.approx(loop(teacher, student, centre, globals_=given), rel=1e-5)


@pytest.mark.parametrize("shape", [s for s in SHAPES if s[0] == 2])
def test_sixteen_pairs_equal_lightly(shape: tuple[int, int, int, int]) -> None:
    """lightly drops pairs of equal index: one teacher view a call, and a dummy in the student's slot 0."""
    from lightly.loss import DINOLoss

    teacher, student, _, centre = (t.float() for t in logits(*shape))
    dino = DINOLoss(output_dim=shape[3], teacher_temp=TAU_T, student_temp=TAU_S)
    student.requires_grad_()
    calls = []
    for view in teacher:
        dino.center = centre.view(1, 1, -1).clone()
        calls.append(dino([view], [torch.zeros_like(view), *student], teacher_temp=TAU_T))
    expected = torch.stack(calls).mean()
    (reference,) = torch.autograd.grad(expected, student)

    value = distill_loss(outright(student), targets_of(teacher, centre), TAU_S).loss
    (gradient,) = torch.autograd.grad(value, student)
    torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(gradient, reference, rtol=1e-4, atol=1e-7)


def test_eighteen_pairs_equal_lightly() -> None:
    """DINO's own form: the student's globals too, never against themselves."""
    from lightly.loss import DINOLoss

    teacher, student, student_globals, centre = (t.float() for t in logits(2, 8, 3, 32))
    dino = DINOLoss(output_dim=32, teacher_temp=TAU_T, student_temp=TAU_S)
    dino.center = centre.view(1, 1, -1).clone()
    expected = dino([*teacher], [*student_globals, *student], teacher_temp=TAU_T)
    views, shares = torch.cat([student, student_globals]), other_views(8, 2, torch.device("cpu"))
    value = distill_loss(outright(views), targets_of(teacher, centre), TAU_S, shares).loss
    torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-6)


def test_targets_take_no_gradient() -> None:
    teacher, student, _, centre = logits(2, 4, 3, 8)
    teacher.requires_grad_()
    student.requires_grad_()
    distill_loss(outright(student), targets_of(teacher, centre), TAU_S).loss.backward()
    assert teacher.grad is None
    assert student.grad is not None


def test_uniform_plateau_is_ln_k() -> None:
    """The signature of a collapse: uniform student and teacher give ln K exactly, 11.09 for K = 65,536."""
    nothing = FactoredLogits(torch.zeros(8, 3, 4), torch.zeros(65_536, 4))
    targets = Targets(FactoredLogits(torch.zeros(2, 3, 4), torch.zeros(65_536, 4)), torch.zeros(65_536), TAU_T)
    out = distill_loss(nothing, targets, TAU_S)
    assert out.loss.item() == pytest.approx(math.log(65_536), rel=1e-6)
    assert out.loss.item() == pytest.approx(11.0904, abs=1e-4)
    assert out.entropy.item() == pytest.approx(math.log(65_536), rel=1e-6)
    assert perplexity(out.targets).item() == pytest.approx(65_536, rel=1e-4)


def test_statistics_of_targets() -> None:
    """Half of the images on each of two prototypes: no entropy each, perplexity 2 together."""
    teacher = torch.full((2, 4, 5), -1.0)
    teacher[:, :2, 0] = 1
    teacher[:, 2:, 3] = 1
    out = distill_loss(outright(torch.zeros(3, 4, 5)), targets_of(teacher, torch.zeros(5)), TAU_S)
    assert out.entropy.item() == pytest.approx(0, abs=1e-6)
    assert perplexity(out.targets).item() == pytest.approx(2)
    torch.testing.assert_close(out.logits, teacher.mean(dim=(0, 1)))


# G, L, B, K, C; rows and prototypes that blocks do and do not divide.
PRODUCTS = [(2, 8, 3, 40, 5), (1, 3, 4, 33, 7), (2, 2, 2, 16, 16)]


@pytest.mark.parametrize("shape", PRODUCTS)
@pytest.mark.parametrize("width", [1, 7, 16, 1000])
@pytest.mark.parametrize("naive", [double_loop, hoisted_loop])
def test_blocks_equal_the_double_loop_on_all_logits(
    shape: tuple[int, ...], width: int, naive: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Loss, gradients by bottleneck and prototypes, and what the targets look like, whatever the blocks."""
    num_global, num_local, num, k, c = shape
    unit = lambda *sizes: F.normalize(torch.randn(*sizes), dim=-1)  # noqa: E731
    x, w = unit(num_local, num, c).requires_grad_(), torch.randn(k, c, requires_grad=True)
    y, v, centre = unit(num_global, num, c), torch.randn(k, c), torch.randn(k) * 0.1
    of_teacher = y @ F.normalize(v, dim=-1).T
    expected = naive(x @ F.normalize(w, dim=-1).T, of_teacher, centre, TAU_S, TAU_T)  # type: ignore[operator]
    by_x, by_w = torch.autograd.grad(3 * expected, (x, w))
    monkeypatch.setitem(distill.BLOCKS, "cpu", (width, width, 0))
    out = distill_loss(FactoredLogits(x, w), Targets(FactoredLogits(y, v), centre, TAU_T), TAU_S)
    got = torch.autograd.grad(3 * out.loss, (x, w))
    torch.testing.assert_close(out.loss, expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(got, (by_x, by_w), rtol=1e-5, atol=1e-5)
    q = ((of_teacher - centre) / TAU_T).softmax(-1)
    torch.testing.assert_close(out.entropy, torch.special.entr(q).sum(-1).mean(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(out.targets, q.mean(dim=(0, 1)), rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(out.logits, of_teacher.mean(dim=(0, 1)), rtol=1e-5, atol=1e-6)


def test_sharp_temperatures_stay_finite(monkeypatch: pytest.MonkeyPatch) -> None:
    """exp(1 / 0.002) is no float32: the highest logit is taken off first, over all blocks."""
    monkeypatch.setitem(distill.BLOCKS, "cpu", (3, 3, 0))
    teacher, student, _, centre = logits(2, 2, 3, 11)
    student.requires_grad_()
    out = distill_loss(outright(student), Targets(outright(teacher), centre, 0.002), 0.002)
    out.loss.backward()
    q = ((teacher - centre) / 0.002).softmax(-1)
    expected = -(q[:, None] * (student / 0.002).log_softmax(-1)[None]).sum(-1).mean()
    torch.testing.assert_close(out.loss.double(), expected, rtol=1e-5, atol=1e-5)
    assert torch.isfinite(student.grad).all()


def test_bfloat16_features_are_computed_in_float32() -> None:
    """Under a CPU's autocast nothing is cast down: the loss of rounded bottlenecks is that of their float32 copies."""
    teacher, student, _, centre = (t.bfloat16() for t in logits(2, 4, 3, 32))
    with torch.autocast("cpu", torch.bfloat16):
        low = student.clone().requires_grad_()
        value = distill_loss(outright(low), targets_of(teacher, centre), TAU_S).loss
        value.backward()
    full = student.float().requires_grad_()
    expected = double_loop(full, teacher.float(), centre.float(), TAU_S, TAU_T)
    expected.backward()
    torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(low.grad.float(), full.grad, rtol=1e-2, atol=1e-5)


def test_no_gradient_where_none_is_asked_for() -> None:
    teacher, student, _, centre = logits(2, 4, 3, 8)
    assert not distill_loss(outright(student), targets_of(teacher, centre), TAU_S).loss.requires_grad
