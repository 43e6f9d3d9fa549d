"""Contrastive losses against open_clip's, forward and gradient, in one process and in two."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn.functional as F
from open_clip.loss import ClipLoss, SigLipLoss
from torch import Tensor

from silc.distributed import World
from silc.losses.contrastive import sigmoid_loss, softmax_loss

SHAPES = [(2, 3), (8, 16), (33, 24)]


def inputs(num: int, dim: int) -> tuple[Tensor, ...]:
    """Unit features, exp(scale) and bias, float64 so that the comparison is of formulas."""
    generator = torch.Generator().manual_seed(num)
    image, text = (F.normalize(torch.randn(num, dim, generator=generator, dtype=torch.float64), dim=-1) for _ in "it")
    return image, text, torch.tensor([7.5], dtype=torch.float64), torch.tensor([-3.0], dtype=torch.float64)


def ours(kind: str, image: Tensor, text: Tensor, scale: Tensor, bias: Tensor, world: World) -> Tensor:
    if kind == "softmax":
        return softmax_loss(image, text, scale, gather=world.gather, rank=world.rank)
    return sigmoid_loss(image, text, scale, bias, gather=world.gather, rank=world.rank)


def theirs(kind: str, image: Tensor, text: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    if kind == "softmax":
        return ClipLoss()(image, text, scale)
    return SigLipLoss()(image, text, scale, bias)


def value_and_gradients(function, kind: str, tensors: tuple[Tensor, ...], *rest) -> tuple[Tensor, list[Tensor]]:
    leaves = [tensor.clone().requires_grad_() for tensor in tensors]
    loss = function(kind, *leaves, *rest)
    loss.backward()
    return loss.detach(), [torch.zeros_like(t) if t.grad is None else t.grad for t in leaves]


@pytest.mark.parametrize("kind", ["softmax", "sigmoid"])
@pytest.mark.parametrize(("num", "dim"), SHAPES)
def test_equals_open_clip(kind: str, num: int, dim: int) -> None:
    tensors = inputs(num, dim)
    value, gradients = value_and_gradients(ours, kind, tensors, World())
    expected, expected_gradients = value_and_gradients(theirs, kind, tensors)
    torch.testing.assert_close(value.double(), expected, rtol=1e-6, atol=1e-6)
    for gradient, reference in zip(gradients, expected_gradients, strict=True):
        torch.testing.assert_close(gradient, reference, rtol=1e-5, atol=1e-6)


def test_softmax_of_a_worked_example() -> None:
    """Two orthogonal pairs at scale ln 3: each row is softmax(ln 3, 0) = (3/4, 1/4)."""
    eye = torch.eye(2)
    loss = softmax_loss(eye, eye, torch.tensor([math.log(3)]), gather=World().gather)
    assert loss.item() == pytest.approx(-math.log(3 / 4), rel=1e-6)


def test_float32_under_autocast() -> None:
    """bf16 autocast around the loss changes no bit of it."""
    image, text, scale, bias = (t.float() for t in inputs(16, 32))
    for kind in ("softmax", "sigmoid"):
        plain = ours(kind, image, text, scale, bias, World())
        with torch.autocast("cpu", torch.bfloat16):
            inside = ours(kind, image, text, scale, bias, World())
        assert inside.dtype == torch.float32
        assert torch.equal(plain, inside)


@pytest.mark.parametrize("ranks", [2])
def test_two_processes_equal_one(ranks: int, tmp_path: Path) -> None:
    """Two gloo processes, averaged as DDP averages, against open_clip on the whole batch."""
    mp.start_processes(_rank, args=(ranks, str(tmp_path)), nprocs=ranks, start_method="spawn")
    for kind in ("softmax", "sigmoid"):
        parts = [torch.load(tmp_path / f"{kind}-{rank}.pt", weights_only=True) for rank in range(ranks)]
        expected, reference = value_and_gradients(theirs, kind, inputs(12, 8))
        value = torch.stack([value for value, _ in parts]).mean()
        torch.testing.assert_close(value.double(), expected, rtol=1e-6, atol=1e-6)
        for i, name in enumerate(("image", "text")):
            # DDP divides the sum over ranks by their number; features live on one rank each.
            rows = torch.cat([gradients[i] for _, gradients in parts]) / ranks
            torch.testing.assert_close(rows, reference[i], rtol=1e-5, atol=1e-7, msg=lambda m, n=name: f"{n}: {m}")
        for i in (2, 3):
            averaged = torch.stack([gradients[i] for _, gradients in parts]).mean(dim=0)
            torch.testing.assert_close(averaged, reference[i], rtol=1e-5, atol=1e-7)


def _rank(rank: int, ranks: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=ranks)
    world = World(rank, ranks)
    for kind in ("softmax", "sigmoid"):
        image, text, scale, bias = inputs(12, 8)
        share = slice(rank * 12 // ranks, (rank + 1) * 12 // ranks)
        torch.save(
            value_and_gradients(ours, kind, (image[share], text[share], scale, bias), world),
            f"{folder}/{kind}-{rank}.pt",
        )
    dist.destroy_process_group()
