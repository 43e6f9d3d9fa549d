"""Contrastive losses against the plain formula in float64 and open_clip's; forward and gradient; 1, 2 and 4 ranks."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn.functional as F
from torch import Tensor

from benchmarks.contrastive import extra_megabytes
from silc.distributed import World
from silc.losses import contrastive
from silc.losses.contrastive import sigmoid_loss, softmax_loss
from tests.ranks import apart

KINDS = ["softmax", "sigmoid"]
NAMES = ("image", "text", "scale", "bias")
SHAPES = [(1, 2, 3), (2, 8, 16), (3, 33, 24), (1, 256, 64)]
SCALE = 7.5
RINGS = (4, 2)
SPREAD = 24, 8  # rows of the global batch and width, over up to 4 ranks


def inputs(views: int, num: int, dim: int, *, alike: float = 0.2, scale: float = SCALE) -> tuple[Tensor, ...]:
    """Unit features, exp(scale) and bias, float64 of float32's numbers; `alike` of an image is its text, 0 to 1."""
    generator = torch.Generator().manual_seed(num)
    image, text = (torch.randn(n, num, dim, generator=generator, dtype=torch.float64) for n in (views, 1))
    image = F.normalize((1 - alike) * F.normalize(image, dim=-1) + alike * F.normalize(text, dim=-1), dim=-1)
    text = F.normalize(text[0], dim=-1)
    return tuple(x.float().double() for x in (image, text, torch.tensor([scale]), torch.tensor([-3.0])))


def ours(kind: str, image: Tensor, text: Tensor, scale: Tensor, bias: Tensor, world: World) -> Tensor:
    if kind == "softmax":
        return softmax_loss(image, text, scale, world)
    return sigmoid_loss(image, text, scale, bias, world)


def plain(kind: str, image: Tensor, text: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """All logits at once, as the papers write it."""
    logits = scale * image @ text.T  # [V, B, B]
    own = torch.eye(len(text), dtype=torch.bool)
    if kind == "softmax":
        shares = logits.log_softmax(-1)[:, own] + logits.log_softmax(-2)[:, own]
        return -shares.mean() / 2
    signed = torch.where(own, logits + bias, -(logits + bias))
    return -F.logsigmoid(signed).sum(-1).mean()


def theirs(kind: str, image: Tensor, text: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    from open_clip.loss import ClipLoss, SigLipLoss  # here, for the ranks below read this file and do without

    if kind == "softmax":
        return torch.stack([ClipLoss()(view, text, scale) for view in image]).mean()
    return torch.stack([SigLipLoss()(view, text, scale, bias) for view in image]).mean()


def value_and_gradients(function, kind: str, tensors: tuple[Tensor, ...], *rest) -> tuple[Tensor, list[Tensor]]:
    leaves = [tensor.clone().requires_grad_() for tensor in tensors]
    loss = function(kind, *leaves, *rest)
    loss.backward()
    return loss.detach(), [torch.zeros_like(t) if t.grad is None else t.grad for t in leaves]


def assert_same(result: tuple[Tensor, list[Tensor]], reference: tuple[Tensor, list[Tensor]], num: int) -> None:
    """Within 1e-6 of the reference: the value of itself or 1, gradients of their largest or a wholly wrong pair.

    Args:
        num: V * B; what a pair can pull at a feature is scale / num.
    """
    value, gradients = result
    expected, expected_gradients = reference
    torch.testing.assert_close(value.double(), expected.double(), rtol=1e-6, atol=1e-6)
    for name, gradient, other in zip(NAMES, gradients, expected_gradients, strict=True):
        bound = 1e-6 * max(SCALE / num if name in ("image", "text") else 1, other.abs().max().item())
        torch.testing.assert_close(
            gradient.double(), other.double(), rtol=0, atol=bound, msg=lambda m, n=name: f"{n}: {m}"
        )


@pytest.fixture(params=[1024, 7, 8], ids=["one block", "blocks of 7", "blocks of 8"])
def side(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests' batches are small: in blocks that divide them and blocks that do not."""
    monkeypatch.setattr(contrastive, "SIDE", request.param)


@pytest.mark.usefixtures("side")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("views", "num", "dim"), SHAPES)
def test_equals_the_plain_formula_and_open_clip(kind: str, views: int, num: int, dim: int) -> None:
    tensors = inputs(views, num, dim)
    float32 = tuple(tensor.float() for tensor in tensors)
    result = value_and_gradients(ours, kind, float32, World())
    assert all(gradient.dtype == torch.float32 for gradient in result[1])
    assert_same(result, value_and_gradients(plain, kind, tensors), views * num)
    assert_same(result, value_and_gradients(theirs, kind, tensors), views * num)


@pytest.mark.usefixtures("side")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("alike", [0.0, 1.0])
def test_at_the_largest_scale(kind: str, alike: float) -> None:
    """Logits up to 100, of strangers and of perfect pairs; a small loss loses no digit to large sums."""
    tensors = inputs(2, 33, 24, alike=alike, scale=100.0)
    value, gradients = value_and_gradients(ours, kind, tuple(t.float() for t in tensors), World())
    expected, reference = value_and_gradients(plain, kind, tensors)
    torch.testing.assert_close(value.double(), expected, rtol=3e-6, atol=1e-6)
    for gradient, other in zip(gradients, reference, strict=True):
        torch.testing.assert_close(gradient.double(), other, rtol=0, atol=1e-5 * max(other.abs().max().item(), 1e-3))


def test_softmax_of_a_worked_example() -> None:
    """Two orthogonal pairs at scale ln 3: each row is softmax(ln 3, 0) = (3/4, 1/4)."""
    eye = torch.eye(2)
    loss = softmax_loss(eye, eye, torch.tensor([math.log(3)]), World())
    assert loss.item() == pytest.approx(-math.log(3 / 4), rel=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_float32_whatever_comes_in(kind: str) -> None:
    """bf16 autocast around the loss changes no bit of it, and bf16 features are what they are in float32."""
    tensors = tuple(t.float() for t in inputs(2, 16, 32))
    expected = ours(kind, *tensors, World())
    with torch.autocast("cpu", torch.bfloat16):
        inside = ours(kind, *tensors, World())
    assert inside.dtype == torch.float32
    assert torch.equal(inside, expected)

    rounded = tuple(t.bfloat16() for t in tensors)
    value, gradients = value_and_gradients(ours, kind, rounded, World())
    expected, reference = value_and_gradients(ours, kind, tuple(t.float() for t in rounded), World())
    assert torch.equal(value, expected)
    for gradient, other in zip(gradients, reference, strict=True):
        assert torch.equal(gradient, other.bfloat16())


@pytest.mark.parametrize("kind", KINDS)
def test_a_factor_on_the_loss_reaches_the_gradient_once(kind: str) -> None:
    tensors = inputs(1, 8, 4)
    leaves = [tensor.clone().requires_grad_() for tensor in tensors]
    loss = 0.25 * ours(kind, *leaves, World())
    loss.backward(retain_graph=True)
    _, reference = value_and_gradients(ours, kind, tensors, World())
    torch.testing.assert_close(leaves[0].grad, 0.25 * reference[0], rtol=1e-6, atol=0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()  # not a wrong number


def test_a_ring_of_processes_equals_one(tmp_path: Path) -> None:
    """Four and two gloo processes, averaged as DDP averages, against the plain formula on the whole batch."""
    mp.start_processes(_rank, args=(str(tmp_path),), nprocs=max(RINGS), start_method="forkserver")
    for ranks, kind in itertools.product(RINGS, KINDS):
        parts = [torch.load(tmp_path / f"{kind}-{ranks}-{rank}.pt", weights_only=True) for rank in range(ranks)]
        value = torch.stack([value for value, _ in parts]).mean()
        by_rank = [gradients for _, gradients in parts]
        # DDP divides the sum over ranks by their number; features live on one rank each.
        features = [torch.cat([g[i] for g in by_rank], dim=-2) / ranks for i in (0, 1)]
        learnt = [torch.stack([g[i] for g in by_rank]).mean(dim=0) for i in (2, 3)]
        whole = value_and_gradients(plain, kind, inputs(2, *SPREAD))
        assert_same((value, features + learnt), whole, 2 * SPREAD[0])


def _rank(process: int, folder: str) -> None:
    contrastive.SIDE = 5
    for ranks in RINGS:
        ring, rank = divmod(process, ranks)
        store = f"file://{folder}/{ranks}-{ring}"
        dist.init_process_group("gloo", init_method=store, rank=rank, world_size=ranks)
        for kind in KINDS:
            image, text, scale, bias = (t.float() for t in inputs(2, *SPREAD))
            share = slice(rank * SPREAD[0] // ranks, (rank + 1) * SPREAD[0] // ranks)
            result = value_and_gradients(ours, kind, (image[:, share], text[share], scale, bias), World(rank, ranks))
            if ring == 0:
                torch.save(result, f"{folder}/{kind}-{ranks}-{rank}.pt")
        dist.destroy_process_group()


@pytest.mark.parametrize("kind", KINDS)
def test_memory_does_not_grow_with_the_batch(kind: str) -> None:
    """8,192 pairs have 268 MB of logits; the peak beyond features and their gradients is that of the blocks."""
    assert 1 < apart(extra_megabytes, kind, 8192, 16) < 100
