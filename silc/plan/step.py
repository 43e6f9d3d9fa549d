"""Measure one training step of one rank on tensors without data: FLOPs, memory and collectives.

There are no formulas for layers. A `Meter` measures the run's own code on torch's fake tensors, as rank 0 of torch's
fake process group. So the plan follows every change of the code.

The fake tensors are CPU tensors. The CPU's attention saves the same tensors for the backward pass as CUDA's flash
attention (q, k, v, the output and a logsumexp per row), and its autocast casts the same products.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from torch.testing._internal.distributed.fake_pg import FakeStore

from silc.distributed import World
from silc.errors import BadInput
from silc.plan import repeats
from silc.plan.fakes import Fakes
from silc.plan.meter import BACKWARD, LOSSES, VIEWS, Meter, owner
from silc.pretraining.build import blank_batch, untrained
from silc.pretraining.gradients import Gradients
from silc.step import Hyper
from silc.training.protocols import Passes
from silc.training.sharding import shard

if TYPE_CHECKING:
    from silc.config import Config

HYPER = Hyper(lr=0.0, momentum=1.0, temperature=1.0)


@dataclass(frozen=True)
class Collective:
    """The communication of one kind in one phase of a step."""

    kind: str
    """all-reduce, all-gather, reduce-scatter, broadcast, ..."""
    where: str
    """The phase of the step."""
    payload: int
    """Size in bytes of the whole data: the tensor that is summed, or the gathered result."""


@dataclass(frozen=True)
class Step:
    """Measurements of one step of one rank."""

    ranks: int
    batch: int
    """Pairs on this rank."""
    parameters: dict[str, int]
    """Number of parameters of each part of the model (see `meter.OWNERS`)."""
    trained: int
    """Number of parameters with a gradient."""
    buffers: int
    """Bytes of the buffers (the centres)."""
    forward: dict[str, float]
    """FLOPs per example by phase, no backward pass; those of the image-text loss grow with the global batch."""
    memory: dict[str, int]
    """Bytes at the peak, by kind, without the optimizer and DDP's buckets."""
    collectives: tuple[Collective, ...]
    """Collectives of the objective and of sharding; DDP's all-reduce of the gradients is not included."""


def measure(config: Config, *, batch: int, ranks: int, vocab_size: int, sharded: bool = False) -> Step:
    """Measure the step of one of `ranks` ranks with `batch` pairs each; `sharded` splits the model over the ranks.

    Raises:
        BadInput: this process is itself a rank of a process group.
    """
    meter, objective = Meter(), untrained(config, vocab_size, eos_id=0, world=World(size=ranks))
    with ExitStack() as fakes:
        fakes.enter_context(_fake_group(ranks))
        if sharded:
            shard(objective, objective.blocks(), World(size=ranks))
        fakes.enter_context(Fakes())
        objective.to_empty(device="cpu")
        with meter, meter.following_resizes(), meter.phases_of(objective), repeats.counted(meter):
            with meter.phase(VIEWS):
                pairs = blank_batch(config, batch)

            @contextmanager
            def forward() -> Iterator[None]:
                with (
                    meter.phase(LOSSES),
                    # Every card of gpus.py has bf16, so `auto` takes it.
                    torch.autocast("cpu", torch.bfloat16, enabled=config.train.precision != "float32"),
                ):
                    yield

            with meter.phase(BACKWARD):
                out = Gradients(
                    objective, Passes(objective, forward), config.train.micro_batch, config.train.passes == "apart"
                )(pairs, HYPER)
            objective.after_step(out, HYPER)
        sizes = {name: p.numel() for name, p in objective.named_parameters()}
        return Step(
            ranks=ranks,
            batch=batch,
            parameters=_by_owner(sizes),
            trained=sum(p.numel() for p in objective.parameters() if p.requires_grad),
            buffers=sum(b.numel() * b.element_size() for b in objective.buffers()),
            forward={phase: flops / batch for phase, flops in meter.flops.items() if phase != BACKWARD},
            memory={name: size for name, size in meter.at_peak.items() if size},
            collectives=tuple(Collective(*place, payload) for place, payload in meter.payloads.items()),
        )


def _by_owner(sizes: dict[str, int]) -> dict[str, int]:
    owned: Counter[str] = Counter()
    for name, size in sizes.items():
        owned[owner(name)] += size
    return {
        name: owned[name] for name in ("image tower", "text tower", "head", "scale and bias", "teacher") if owned[name]
    }


@contextmanager
def _fake_group(ranks: int) -> Iterator[None]:
    """Set up a fake process group that sends nothing, with this process as rank 0."""
    if dist.is_initialized():
        raise BadInput("silc plan runs in one process; start it without torchrun")
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=ranks)
    try:
        yield
    finally:
        dist.destroy_process_group()
