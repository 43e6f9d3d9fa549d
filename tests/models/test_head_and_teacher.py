"""Head, EMA and centre against float64 loops written here."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from silc.models.config import HeadConfig, ImageTowerConfig
from silc.models.head import DistillHead
from silc.models.image import ImageTower
from silc.models.teacher import Teacher, half_life_of, momentum_of
from silc.step import FactoredLogits


def make() -> tuple[ImageTower, DistillHead]:
    tower = ImageTower(ImageTowerConfig(size=16, patch=8, width=12, depth=1, heads=2, mlp=24), 12)
    return tower, DistillHead(HeadConfig(hidden=20, bottleneck=6, prototypes=15), 12)


def cosines(projection: FactoredLogits) -> Tensor:
    """The logits [..., K], multiplied out."""
    return F.linear(projection.bottleneck, F.normalize(projection.prototypes, dim=-1))


def logits(head: DistillHead, x: torch.Tensor) -> torch.Tensor:
    """[..., K]"""
    return cosines(head(x)).detach()


def gelu(x: np.ndarray) -> np.ndarray:
    return np.array([[v * 0.5 * (1 + math.erf(v / math.sqrt(2))) for v in row] for row in x])


@pytest.mark.parametrize("num", [1, 7])
def test_head_equals_the_loop(num: int) -> None:
    _, head = make()
    x = torch.randn(num, 12)
    h = x.numpy().astype(np.float64)
    layers = [m for m in head.mlp if isinstance(m, torch.nn.Linear)]
    for i, layer in enumerate(layers):
        h = h @ layer.weight.detach().numpy().astype(np.float64).T + layer.bias.detach().numpy()
        h = gelu(h) if i < 2 else h
    prototypes = head.prototypes.detach().numpy().astype(np.float64)
    expected = np.empty((num, 15))
    for n in range(num):
        for k in range(15):
            expected[n, k] = h[n] @ prototypes[k] / np.linalg.norm(h[n]) / np.linalg.norm(prototypes[k])
    np.testing.assert_allclose(logits(head, x).numpy(), expected, rtol=1e-4, atol=1e-6)


def test_logits_are_cosines_whatever_the_prototypes_length() -> None:
    """Weight norm with its gain fixed at 1: scaling the weights changes nothing."""
    _, head = make()
    x = torch.randn(4, 12)
    before = logits(head, x)
    with torch.no_grad():
        head.prototypes.mul_(torch.rand(15, 1) * 9 + 0.5)
    torch.testing.assert_close(logits(head, x), before, rtol=1e-5, atol=1e-6)
    assert before.abs().max() <= 1 + 1e-6


def test_head_of_the_paper() -> None:
    """2048, 2048, 256, K: 65,536 prototypes of width 256 and no bias in the last layer."""
    with torch.device("meta"):
        head = DistillHead(HeadConfig(), 768)
    shapes = [tuple(p.shape) for name, p in head.named_parameters() if name.endswith(("weight", "prototypes"))]
    assert sorted(shapes) == sorted([(2048, 768), (2048, 2048), (256, 2048), (65_536, 256)])


def test_ema_and_centre_equal_the_loop_over_several_steps() -> None:
    tower, head = make()
    teacher = Teacher(tower, head)
    momentum, centre_momentum = 0.9, 0.8
    averages = {n: p.detach().double().clone() for n, p in teacher.named_parameters()}
    centre = np.zeros(15)
    for step in range(5):
        with torch.no_grad():
            for p in [*tower.parameters(), *head.parameters()]:
                p.add_(torch.randn_like(p) * 0.1)
        drawn = torch.randn(2, 4, 15)
        teacher.update(tower, head, momentum)
        teacher.update_centre(drawn.mean(dim=(0, 1)), centre_momentum)
        students = {f"visual.{n}": p for n, p in tower.named_parameters()}
        students |= {f"head.{n}": p for n, p in head.named_parameters()}
        assert students.keys() == averages.keys()
        for name, average in averages.items():
            averages[name] = momentum * average + (1 - momentum) * students[name].detach().double()
        total = np.zeros(15)
        for g in range(2):
            for b in range(4):
                total += drawn[g, b].double().numpy()
        centre = centre_momentum * centre + (1 - centre_momentum) * total / 8
        for name, parameter in teacher.named_parameters():
            torch.testing.assert_close(
                parameter.double(), averages[name], rtol=1e-5, atol=1e-6, msg=f"{name}, step {step}"
            )
        np.testing.assert_allclose(teacher.centre.numpy(), centre, rtol=1e-4, atol=1e-6)


def test_targets_are_of_the_teachers_head_and_centre() -> None:
    tower, head = make()
    teacher = Teacher(tower, head)
    teacher.centre.copy_(torch.linspace(-0.2, 0.2, 15))
    x = torch.randn(2, 3, 12)
    targets = teacher.targets(x, 0.04)
    torch.testing.assert_close(cosines(targets.projection), logits(head, x))
    assert not targets.projection.prototypes.requires_grad
    assert torch.equal(targets.centre, teacher.centre)
    assert targets.temperature == 0.04


def test_teacher_owns_its_tensors() -> None:
    """Aliasing the student is a bug others had: changing one must not change the other."""
    tower, head = make()
    teacher = Teacher(tower, head)
    pointers = {p.data_ptr() for p in [*tower.parameters(), *head.parameters()]}
    assert not pointers & {p.data_ptr() for p in teacher.parameters()}
    assert not any(p.requires_grad for p in teacher.parameters())


@pytest.mark.parametrize(
    ("half_life", "batch", "expected"), [(330_000, 16_384, 0.966), (330_000, 1024, 0.9979), (330_000, 4096, 0.9914)]
)
def test_half_life_rule(half_life: float, batch: int, expected: float) -> None:
    """0.966 at 16,384 is the paper's setting [method.md section 1]; the others are the rule's figures."""
    momentum = momentum_of(half_life, batch)
    assert momentum == pytest.approx(expected, abs=6e-4)
    assert momentum ** (half_life / batch) == pytest.approx(0.5)


@pytest.mark.parametrize(("examples", "half_life"), [(20e9, 330_000), (6.6e6, 330_000), (50_000, 2_500)])
def test_half_life_of_short_runs(examples: float, half_life: float) -> None:
    assert half_life_of(examples) == pytest.approx(half_life)
