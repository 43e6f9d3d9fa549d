"""The image-text losses of a large batch in one process: memory beyond the features, time and difference to all logits.

Beyond the features means beyond image and text features and their gradients, which every way of computing them holds.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from benchmarks.measure import CHECKOUT, Row, Target, forget_peak, held, in_turns, peak
from silc.distributed import CPU, World, place
from silc.losses.contrastive import sigmoid_loss, softmax_loss

if TYPE_CHECKING:
    from torch import Tensor

    from benchmarks.suite import BenchConfig

LARGE, WIDTH = 32_768, 512
SMALL = (512, 1024, 2048, 4096)
"""Batches that the plain formula can hold too."""


def contrastive(config: BenchConfig) -> list[Row]:
    """Target 5: less than 100 MB beyond the features at 32,768 pairs."""
    device = place(config.device)
    return [_row(kind, device) for kind in ("softmax", "sigmoid")]


def _row(kind: str, device: torch.device) -> Row:
    figures: dict[str, float] = {}
    for num in SMALL:
        steps = {name: partial(_step, loss[kind], num, device) for name, loss in (("blocks", _OURS), ("plain", _PLAIN))}
        turns = in_turns(
            steps,
            clock=time.process_time if device.type == "cpu" else time.perf_counter,
            settle=torch.cuda.synchronize if device.type == "cuda" else lambda: None,
        )
        figures[f"time over plain at {num}"] = turns.ratio("blocks", "plain")
        figures[f"ms at {num}"] = 1e3 * turns.median("blocks")
    figures[f"largest relative error of a gradient at {SMALL[-1]}"] = _error(kind, SMALL[-1], device)
    start = time.perf_counter()
    megabytes = _in_a_process_of_its_own(kind) if device.type == "cpu" else extra_megabytes(kind, LARGE, WIDTH, device)
    figures[f"s at {LARGE}"] = time.perf_counter() - start
    what = f"{kind} loss of {LARGE} pairs, width {WIDTH}: memory beyond the features"
    return Row(5, what, megabytes, "MB", Target("at most", 100), figures)


def _in_a_process_of_its_own(kind: str) -> float:
    """Memory that this process has freed but not given back would hide what is taken."""
    script = f"from benchmarks.contrastive import *; print(extra_megabytes({kind!r}, {LARGE}, {WIDTH}))"
    command = [sys.executable, "-c", script]
    return float(subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=True).stdout)


def extra_megabytes(kind: str, num: int, dim: int, device: torch.device = CPU) -> float:
    """Peak of forward and backward over what is held once features and their gradients exist; on Linux or a GPU."""
    _step(_OURS[kind], 64, device)  # libraries load what they need
    leaves = _inputs(num, dim, device)
    for leaf in leaves:
        leaf.grad = torch.ones_like(leaf)
    before = held(device.type)
    for leaf in leaves:
        leaf.grad = None
    forget_peak(device.type)
    _OURS[kind](*leaves).backward()
    return (peak(device.type) - before) / 1e6


def _step(loss: Callable[..., Tensor], num: int, device: torch.device) -> list[Tensor]:
    """Gradients of one forward and backward pass."""
    leaves = _inputs(num, WIDTH, device)
    loss(*leaves).backward()
    return [leaf.grad for leaf in leaves if leaf.grad is not None]


def _inputs(num: int, dim: int, device: torch.device) -> list[Tensor]:
    """Image [B, D], text [B, D], scale [1] and bias [1]."""
    torch.manual_seed(0)
    features = [F.normalize(torch.randn(num, dim, device=device), dim=-1) for _ in range(2)]
    return [x.requires_grad_() for x in (*features, torch.tensor([10.0]).to(device), torch.tensor([-10.0]).to(device))]


def _error(kind: str, num: int, device: torch.device) -> float:
    """Largest difference to float64 with all logits, in units of the largest entry of that gradient."""
    leaves = [leaf.detach().double().requires_grad_() for leaf in _inputs(num, WIDTH, device)]
    _PLAIN[kind](*leaves).backward()
    exact = [leaf.grad for leaf in leaves if leaf.grad is not None]
    pairs = zip(_step(_OURS[kind], num, device), exact, strict=True)
    return max(((a - b).abs().max() / b.abs().max()).item() for a, b in pairs)


def _plain_softmax(image: Tensor, text: Tensor, scale: Tensor, _: Tensor) -> Tensor:
    logits, own = scale * image @ text.T, torch.arange(len(text), device=text.device)
    return (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2


def _plain_sigmoid(image: Tensor, text: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    logits = torch.addmm(bias, scale * image, text.T)
    return (F.softplus(logits).sum() - logits.diagonal().sum()) / len(text)


_PLAIN: dict[str, Callable[..., Tensor]] = {"softmax": _plain_softmax, "sigmoid": _plain_sigmoid}
_OURS: dict[str, Callable[..., Tensor]] = {
    "softmax": lambda image, text, scale, _: softmax_loss(image, text, scale, World()),
    "sigmoid": lambda image, text, scale, bias: sigmoid_loss(image, text, scale, bias, World()),
}
