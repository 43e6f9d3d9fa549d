"""The distillation loss against a double loop on all logits."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F

from benchmarks.baselines.dino import double_loop, hoisted_loop
from benchmarks.measure import Row, Target, extra_memory, in_turns
from silc.losses.distill import distill_loss
from silc.step import FactoredLogits, Targets

if TYPE_CHECKING:
    from torch import Tensor

    from benchmarks.suite import BenchConfig

PROTOTYPES, BOTTLENECK = 65_536, 256
NUM_GLOBAL, NUM_LOCAL = 2, 8
TAU_S, TAU_T = 0.1, 0.04


def rows(config: BenchConfig) -> list[Row]:
    """Row 4, from bottlenecks and prototypes to their gradients: the normalised last product is in all of them."""
    kind, turns = config.kind, 5 if config.kind == "cpu" else 20
    case = Case(64 if kind == "cpu" else 256, kind)
    runs = {"double loop": case.naive(double_loop), "hoisted loop": case.naive(hoisted_loop), "blocks": case.blocks}
    expected = runs["double loop"]()
    error = max(float((a - b).abs().max() / b.abs().max()) for a, b in zip(case.blocks(), expected, strict=True))
    memory = {name: extra_memory(run, kind) for name, run in runs.items()}
    clock = time.process_time if kind == "cpu" else time.perf_counter
    settle = torch.cuda.synchronize if kind == "cuda" else lambda: None
    timed = in_turns(runs, turns=turns, clock=clock, settle=settle)
    figures = {
        "batch": case.num,
        "clock": "CPU time of the process" if kind == "cpu" else "wall",
        "seconds": {name: timed.median(name) for name in runs},
        "time over the hoisted loop": timed.ratio("blocks", "hoisted loop"),
        "memory MB": memory,
        "gradient MB": case.w.nbytes / 1e6,
    }
    what = f"distillation loss, K = {PROTOTYPES:,}"
    least = memory["double loop"] / memory["blocks"]
    slowest = 1.5 if kind == "cpu" else 1.0
    return [
        Row(4, f"{what}: the double loop's extra memory over ours", least, "x", Target("at least", 5), figures),
        Row(
            4,
            f"{what}: time over the double loop",
            timed.ratio("blocks", "double loop"),
            "x",
            Target("at most", slowest),
            figures,
        ),
        Row(4, f"{what}: largest difference of a gradient", error, "of the largest", Target("at most", 1e-5)),
    ]


class Case:
    """Random vectors in the place of heads' outputs."""

    def __init__(self, num: int, device: str, prototypes: int = PROTOTYPES, num_local: int = NUM_LOCAL) -> None:
        generator = torch.Generator().manual_seed(0)

        def unit(*sizes: int) -> Tensor:
            return F.normalize(torch.randn(*sizes, BOTTLENECK, generator=generator), dim=-1).to(device)

        self.num = num
        self.x, self.w = unit(num_local, num).requires_grad_(), unit(prototypes).requires_grad_()
        self.y, self.v = unit(NUM_GLOBAL, num), unit(prototypes)
        self.centre = (torch.randn(prototypes, generator=generator) * 0.05).to(device)

    def blocks(self) -> tuple[Tensor, ...]:
        """Ours; the gradients by bottleneck and prototypes."""
        targets = Targets(FactoredLogits(self.y, self.v), self.centre, TAU_T)
        return torch.autograd.grad(distill_loss(FactoredLogits(self.x, self.w), targets, TAU_S).loss, (self.x, self.w))

    def naive(self, loop: Callable[..., Any]) -> Callable[[], tuple[Tensor, ...]]:
        """A loop on all logits; the same gradients."""

        def run() -> tuple[Tensor, ...]:
            student = F.linear(self.x, F.normalize(self.w, dim=-1))
            with torch.no_grad():
                teacher = F.linear(self.y, F.normalize(self.v, dim=-1))
            loss = loop(student, teacher, self.centre, TAU_S, TAU_T)
            return torch.autograd.grad(loss, (self.x, self.w))

        return run
