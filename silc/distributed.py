"""Ranks, and the collectives between them. In a single process every collective is the identity.

`torchrun` describes the process group in the environment; `join()` reads it.
"""

from __future__ import annotations

import os
import time
import uuid
from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from threading import Event, Thread
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from silc.errors import BadInput, LostRank
from silc.settings import kind_and_index

if TYPE_CHECKING:
    from torch import Tensor


CPU = torch.device("cpu")
PATIENCE = timedelta(minutes=30)
"""Longest wait at a barrier: the main rank trains the tokenizer and writes checkpoints while the others wait there."""
GRACE = 1.0
"""Seconds that a rank which gives up waits for the others to report that they are alive."""


@dataclass(frozen=True)
class World:
    """This process's place among the ranks."""

    rank: int = 0
    size: int = 1
    device: torch.device = CPU
    patient: Any = None
    """The process group for barriers; None is the default group."""

    @property
    def is_main(self) -> bool:
        """Whether this rank writes files and prints."""
        return self.rank == 0

    def shift(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Send tensors to the next rank of the ring, receive the previous rank's of the same shapes; no gradient."""
        if self.size == 1:
            return tensors
        after, before = (self.rank + 1) % self.size, (self.rank - 1) % self.size
        taken = tuple(torch.empty_like(x, memory_format=torch.contiguous_format) for x in tensors)
        # Between two ranks messages arrive in the order they were sent, so they need no tags.
        moves = [dist.P2POp(dist.isend, x.contiguous(), after) for x in tensors]
        moves += [dist.P2POp(dist.irecv, x, before) for x in taken]
        for move in dist.batch_isend_irecv(moves):
            move.wait()
        return taken

    def gather(self, x: Tensor) -> Tensor:
        """[B, ...] on each rank -> [B * size, ...] in rank order, without gradient."""
        if self.size == 1:
            return x.detach()
        parts = [torch.empty_like(x) for _ in range(self.size)]
        dist.all_gather(parts, x.detach().contiguous())
        return torch.cat(parts)

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
        """Wait for every rank, at most `PATIENCE`; call it after work that one rank does alone."""
        if self.size > 1:
            dist.barrier(self.patient)

    def from_main(self, value: Any) -> Any:
        """The main rank's value, on every rank; waits as long as a barrier."""
        self.barrier()
        return self.collect(value)[0]


_JOINED: list[World] = []
"""The world of the process group this process is in, if it is in one."""


@contextmanager
def join(device: str = "auto", timeout: timedelta = PATIENCE) -> Iterator[World]:
    """Join the process group that `torchrun` describes, or a world of one; a nested call gives the outer call's world.

    Args:
        device: `auto` takes this rank's GPU when there is one, else the CPU.
        timeout: longest wait of a collective for the other ranks, except at barriers.

    Raises:
        BadInput: a GPU is asked for and there is none.
        LostRank: a rank did not answer.
    """
    if _JOINED:
        yield _JOINED[-1]
        return
    size, local_rank = described()
    mine = place(device, local_rank, size)
    on_gpu = mine.type == "cuda"
    if on_gpu:
        torch.cuda.set_device(mine)
    if size == 1:
        yield World(device=mine)
        return
    store, rank, size = next(rendezvous("env://", timeout=PATIENCE))
    store = PrefixStore(agree_on_attempt(store, rank, size), store)
    dist.init_process_group(
        "nccl" if on_gpu else "gloo",
        store=PrefixStore("group", store),
        rank=rank,
        world_size=size,
        timeout=timeout,
        device_id=mine if on_gpu else None,
    )
    try:
        _JOINED.append(World(rank, size, mine, dist.new_group(backend="gloo", timeout=PATIENCE)))
        yield _JOINED[-1]
    except RuntimeError as error:
        if not _broke_off(error):
            raise
        raise LostRank(_complaint(PrefixStore("lost", store), rank, size, error)) from None
    finally:
        _JOINED.clear()
        dist.destroy_process_group()


def described() -> tuple[int, int]:
    """Number of ranks and this process's local rank, from the environment.

    Raises:
        BadInput: a variable is missing or is not a number.
    """
    numbers = {"WORLD_SIZE": 1, "RANK": 0, "LOCAL_RANK": 0}
    for name in numbers:
        value = os.environ.get(name, "").strip()
        if value and not value.isdecimal():
            raise BadInput(
                f"the environment's {name} is '{value}'; it must be a whole number of at least 0; start the ranks with "
                "torchrun"
            )
        numbers[name] = int(value) if value else numbers[name]
    size, rank, local_rank = numbers.values()
    needed = ("WORLD_SIZE", "RANK", "MASTER_ADDR", "MASTER_PORT")
    missing = [name for name in needed if not os.environ.get(name, "").strip()] if size > 1 or rank else []
    if missing or rank >= size:
        told = f"without {' and '.join(missing)}" if missing else f"and RANK is {rank}"
        raise BadInput(
            f"the environment names a group of ranks (WORLD_SIZE {size}) {told}; start the ranks with torchrun, which "
            "sets all of it, or unset WORLD_SIZE and RANK for one process"
        )
    return size, local_rank


def place(device: str | torch.device = "auto", local_rank: int = 0, ranks: int = 1) -> torch.device:
    """The device that a name means: auto, cpu, cuda or cuda:N. `auto` is this rank's GPU if there is one, else the CPU.

    Raises:
        BadInput: no such name, no such GPU here, or one GPU named for several ranks.
    """
    there = torch.cuda.device_count() if torch.cuda.is_available() else 0
    kind, index = kind_and_index(str(device)) if device != "auto" else ("cuda" if there else "cpu", None)
    if kind == "cpu":
        if index:
            raise BadInput(f"device '{device}' was asked for, but all cores are one device; use cpu")
        return torch.device("cpu")
    if not there:
        raise BadInput(f"device '{device}' was asked for and torch sees no CUDA device; use auto or cpu")
    if index is not None and ranks > 1:
        raise BadInput(f"device '{device}' is one GPU for {ranks} ranks; use cuda, each rank takes its own")
    if index is None and local_rank >= there:
        raise BadInput(f"this is rank {local_rank} of its node, where torch sees {there} GPUs; start fewer, or use cpu")
    if index is not None and index >= there:
        raise BadInput(f"device '{device}' was asked for and torch sees cuda:0 to cuda:{there - 1}; use one of these")
    return torch.device("cuda", local_rank if index is None else index)


def agree_on_attempt(store: Store, rank: int, size: int, patience: timedelta = PATIENCE) -> str:
    """A name that all ranks of this start share, and that no earlier start of the same `torchrun` used.

    The store of `torchrun` outlives a start. A restarted rank that finds addresses of dead ranks there would wait for
    them (pytorch/pytorch#135712; seen with torch 2.15). `torchrun` offers no such name: it counts restarts on each node
    separately, and does not count those after a change of nodes. So every rank calls rank 0 with a new random word.
    Rank 0 answers every call that it finds, also those of dead ranks, until every living rank has confirmed its answer.
    """
    word = uuid.uuid4().hex
    if rank > 0:
        store.set(f"call/{rank}", word)
        try:
            store.wait([f"answer/{word}"], patience)
        except dist.DistError:
            raise LostRank(f"rank 0 did not start within {patience.total_seconds():.0f} s") from None
        attempt: str = store.get(f"answer/{word}").decode()
        store.set(f"{attempt}/came/{rank}", "")
        return attempt
    missing, deadline = set(range(1, size)), time.monotonic() + patience.total_seconds()
    while missing:
        for other in sorted(missing):
            if store.check([f"{word}/came/{other}"]):
                missing.remove(other)
            elif store.check([f"call/{other}"]):
                store.set(f"answer/{store.get(f'call/{other}').decode()}", word)
        if missing and time.monotonic() > deadline:
            raise LostRank(f"{_named(missing)} did not start within {patience.total_seconds():.0f} s")
        time.sleep(0.01)
    return word


BROKE_OFF = ("gloo", "pair closure", "by peer", "Broken pipe")
"""Words of gloo's errors, which have no type of their own; those that come through DDP's backward pass do not even say
that they are gloo's."""


def _broke_off(error: RuntimeError) -> bool:
    """Whether an error comes from a collective."""
    return isinstance(error, dist.DistError) or any(words in str(error) for words in BROKE_OFF)


def _complaint(store: Store, rank: int, size: int, error: RuntimeError) -> str:
    """One line that names the silent ranks. Each living rank calls this, and first writes its number to the store."""
    silent, reached = set(range(size)) - {rank}, Event()

    def ask() -> None:
        with suppress(RuntimeError):
            store.set(str(rank), "")
            while silent:
                for other in sorted(silent):
                    if store.check([str(other)]):
                        silent.discard(other)
                    reached.set()
                time.sleep(0.05)

    # In a thread: a store behind a broken link never answers, and raises no error.
    asking = Thread(target=ask, daemon=True)
    asking.start()
    asking.join(GRACE)
    how = "in time" if "imed out" in str(error) else "any more"
    if not reached.is_set():
        who = f"rank 0 did not answer {how}, nor the store beside it"
    elif silent:
        who = f"{_named(silent)} did not answer {how}"
    else:
        who = "every rank answers, but a connection between them broke"
    return f"rank {rank} gives up: {who}; go on from the last checkpoint with --resume auto"


def _named(ranks: Collection[int]) -> str:
    listed = sorted(ranks)
    shown = ", ".join(map(str, listed[:8])) + (f" and {len(listed) - 8} more" if len(listed) > 8 else "")
    return f"rank{'s' * (len(listed) > 1)} {shown}"
