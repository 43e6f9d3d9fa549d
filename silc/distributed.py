"""Ranks and what they tell each other. In a single process every collective is the identity.

`torchrun` describes the group in the environment; `join()` reads it.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from silc.types import BadInput

if TYPE_CHECKING:
    from torch import Tensor


CPU = torch.device("cpu")
PATIENCE = timedelta(minutes=30)
"""Longest wait for the other ranks: the main one trains the tokenizer and writes checkpoints while they wait."""


class _Gather(torch.autograd.Function):
    """All-gather with gradient. torch's own moved between modules from 2.11 to 2.15 and warns in one of them."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, rank: int, size: int) -> Tensor:
        ctx.rank, ctx.rows = rank, len(x)
        parts = [torch.empty_like(x) for _ in range(size)]
        dist.all_gather(parts, x)
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        total = gradients[0].clone(memory_format=torch.contiguous_format)  # autograd's own must stay as it is
        dist.all_reduce(total)
        return total[ctx.rank * ctx.rows :][: ctx.rows], None, None


@dataclass(frozen=True)
class World:
    """This process's place among the ranks (the `Collectives` of types.py)."""

    rank: int = 0
    size: int = 1
    device: torch.device = CPU

    @property
    def is_main(self) -> bool:
        """Whether this rank writes files and speaks."""
        return self.rank == 0

    def gather(self, x: Tensor) -> Tensor:
        """[B, ...] on each rank -> [B * size, ...] in rank order.

        Its gradient is the sum of what every rank's loss says about this rank's rows. DDP divides by `size`
        afterwards, so a loss that is a mean over a rank's own rows gets the gradient of the global mean.
        """
        if self.size == 1:
            return x
        gathered: Tensor = _Gather.apply(x.contiguous(), self.rank, self.size)
        return gathered

    def mean(self, x: Tensor) -> Tensor:
        """Mean over the ranks, without gradient; every rank gets the same bits."""
        if self.size == 1:
            return x.detach()
        total = x.detach().clone()
        dist.all_reduce(total)
        return total / self.size

    def all_true(self, flags: Tensor) -> list[bool]:
        """Whether each of the boolean `flags` [N] holds on every rank."""
        agreed = flags.detach().to(torch.float32)
        if self.size > 1:
            dist.all_reduce(agreed, op=dist.ReduceOp.MIN)
        return [value > 0 for value in agreed.tolist()]

    def total(self, counts: Counter[str]) -> Counter[str]:
        """Sum of every rank's counts."""
        return sum(self.collect(counts), Counter())

    def collect(self, value: Any) -> list[Any]:
        """Every rank's value, in rank order; a plain Python object or tensors on the CPU."""
        everyone: list[Any] = [value]
        if self.size > 1:
            everyone = [None] * self.size
            dist.all_gather_object(everyone, value)
        return everyone

    def barrier(self) -> None:
        """Wait for every rank."""
        if self.size > 1:
            dist.barrier()


@contextmanager
def join(device: str = "auto") -> Iterator[World]:
    """The process group `torchrun` started this process in, or a world of one.

    Args:
        device: `auto` takes this rank's GPU when there is one, else the CPU.

    Raises:
        BadInput: a GPU is asked for and there is none.
    """
    size, local_rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("LOCAL_RANK", "0"))
    mine = place(device, local_rank)
    on_gpu = mine.type == "cuda"
    if on_gpu:
        torch.cuda.set_device(mine)
    if size == 1:
        yield World(device=mine)
        return
    backend = "nccl" if on_gpu else "gloo"
    store, rank, size = next(rendezvous("env://", timeout=PATIENCE))
    dist.init_process_group(
        backend,
        store=PrefixStore(_attempt(), store),
        rank=rank,
        world_size=size,
        timeout=PATIENCE,
        device_id=mine if on_gpu else None,
    )
    try:
        yield World(dist.get_rank(), dist.get_world_size(), mine)
    finally:
        dist.destroy_process_group()


def place(device: str = "auto", local_rank: int = 0) -> torch.device:
    """The device a name means: `auto` is the GPU of this rank when there is one, else the CPU.

    Raises:
        BadInput: a GPU is asked for and there is none.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise BadInput("device 'cuda' was asked for and torch sees no CUDA device; use auto or cpu")
    on_gpu = device == "cuda" or (device == "auto" and torch.cuda.is_available())
    return torch.device("cuda", local_rank) if on_gpu else torch.device("cpu")


def _attempt() -> str:
    """What sets this start apart from earlier ones of the same `torchrun`, whose addresses its store still holds.

    Without it a restarted rank may wait for the dead ones (pytorch/pytorch#135712; seen with torch 2.15). The count is
    each node's own, so it tells attempts apart on a single node only.
    """
    single_node = os.environ.get("LOCAL_WORLD_SIZE") == os.environ.get("WORLD_SIZE")
    return f"attempt-{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}" if single_node else "attempt"
