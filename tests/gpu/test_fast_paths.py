"""Fast paths on a GPU against the plain ones: `pytest -m gpu tests/gpu`. Written without a GPU at hand.

$SILC_TEST_DEVICE names another device, so that the tests themselves are tried where there is none.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks import step
from benchmarks.baselines.dino import double_loop
from silc.config import Config
from silc.losses.distill import distill_loss
from silc.pretraining.gradients import Gradients
from silc.step import FactoredLogits, Targets
from silc.training.protocols import Passes

pytestmark = pytest.mark.gpu
DEVICE = os.environ.get("SILC_TEST_DEVICE", "cuda")
TAU_S, TAU_T = 0.1, 0.04
HALF = partial(torch.autocast, DEVICE, torch.bfloat16)


InOnePass = partial(Gradients, apart=False)
"""The plain step: one forward, one backward."""


@pytest.fixture(autouse=True)
def _exact_products() -> None:
    torch.backends.cuda.matmul.fp32_precision = "ieee"


@pytest.mark.parametrize("num", [8, 200])
@pytest.mark.parametrize("half", [False, True], ids=["float32", "bf16"])
def test_distillation_in_blocks(num: int, half: bool) -> None:
    """Products of bfloat16 that sum in float32 differ by the rounding of what is multiplied, and no more."""
    unit = lambda *sizes: F.normalize(torch.randn(*sizes, 256, device=DEVICE), dim=-1)  # noqa: E731
    x, w = unit(8, num).requires_grad_(), unit(65_536).requires_grad_()
    y, v, centre = unit(2, num), unit(65_536), torch.randn(65_536, device=DEVICE) * 0.05
    expected = double_loop(F.linear(x, F.normalize(w, dim=-1)), F.linear(y, v), centre, TAU_S, TAU_T)
    reference = torch.autograd.grad(expected, (x, w))
    with torch.autocast(DEVICE, torch.bfloat16, enabled=half):
        out = distill_loss(FactoredLogits(x, w), Targets(FactoredLogits(y, v), centre, TAU_T), TAU_S)
    found = torch.autograd.grad(out.loss, (x, w))
    tolerance = 2e-2 if half else 1e-5
    torch.testing.assert_close(out.loss, expected, rtol=tolerance, atol=0)
    for a, b in zip(found, reference, strict=True):
        assert (a - b).abs().max() <= tolerance * b.abs().max()


@pytest.mark.parametrize("name", ["clip", "silc_c", "silc_s"])
@pytest.mark.parametrize("size", [0, 2])
@pytest.mark.parametrize("half", [False, True], ids=["float32", "bf16"])
def test_passes_and_parts(small: Callable[..., Config], name: str, size: int, half: bool) -> None:
    made = {"autocast": HALF} if half else {}
    _same_gradients(small(name), InOnePass, partial(Gradients, size=size), made, 2e-2 if half else 1e-4)


# A compiler warns of what is not in our hands: products without TF32, the gradient of what crosses a graph's end.
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("half", [False, True], ids=["float32", "bf16"])
def test_compiled(small: Callable[..., Config], half: bool) -> None:
    def compiled(objective: torch.nn.Module, passes: Passes) -> Gradients:
        return Gradients(objective, replace(passes, module=torch.compile(objective)))

    made = {"autocast": HALF} if half else {}
    _same_gradients(small("silc_c"), InOnePass, compiled, made, 5e-2 if half else 1e-4)


def _same_gradients(
    config: Config, plain: Callable[..., Gradients], fast: Callable[..., Gradients], made: dict, tolerance: float
) -> None:
    objective = step.OurStep(config, DEVICE).objective
    batch, found = step.batch_of(config, 8, DEVICE), []
    for kind in (plain, fast):
        out = kind(objective, Passes(objective, **made))(batch, step.HYPER)
        gradients = {n: p.grad.clone() for n, p in objective.named_parameters() if p.grad is not None}
        objective.zero_grad()
        found.append((out.metrics, gradients))
    (expected_metrics, expected), (metrics, gradients) = found
    assert gradients.keys() == expected.keys()
    largest: Tensor = max(g.abs().max() for g in expected.values())
    for name, gradient in expected.items():
        assert (gradients[name] - gradient).abs().max() <= tolerance * largest, name
    for name, value in expected_metrics.items():
        torch.testing.assert_close(metrics[name], value, rtol=tolerance, atol=tolerance, msg=name)
