"""Samples to batches: the order, visits, worker processes, and what happens to broken samples.

A global batch is a function of (seed, step) and the source alone. Workers make whole batches, ranks take contiguous
slices, so neither their number changes what is trained on. What a batch is, `collate` says: of pairs, `PairCollate`.
"""

from __future__ import annotations

import logging
import math
import multiprocessing.queues
import os
import pickle
import signal
import sys
import threading
import warnings
from contextlib import closing, nullcontext
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, get_worker_info

from silc.batch import AnyBatch
from silc.data.order import Order
from silc.data.pairs import BadSample, Sample
from silc.data.workers import (
    PATIENCE,
    SHARED_MEMORY,
    START_METHOD,
    Board,
    Prefetcher,
    Watch,
    free_shared_memory,
    lacking,
)
from silc.errors import BadInput
from silc.processor import return_large_memory

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Mapping, Sequence

    from torch import Tensor

    from silc.batch import Broken
    from silc.data.pairs import Source
    from silc.distributed import World

log = logging.getLogger(__name__)

MAX_CONSECUTIVE_BAD = 100
"""A replacement is looked for among this many samples of the shard, and then in as many shards."""
PREFETCH = 2
"""Batches that torch's DataLoader keeps ready for each worker."""

BatchT = TypeVar("BatchT", bound=AnyBatch, covariant=True)
Visit = tuple[int, int, int]
"""One visit of a sample: (seed, epoch, index). All that is drawn for it follows from that (`stream`)."""


@dataclass
class RankSamples(Generic[Sample]):
    """One rank's samples of one global batch. They are gone through once, each is read when it is asked for."""

    visits: Sequence[Visit]
    read: Callable[[int, list[Broken]], Sample]
    """A sample by its number, or the one in its place; adds to the list what is broken."""
    empty: Callable[..., Tensor]
    """`torch.empty`; in a worker its memory is the one that the batch travels in, so nothing is copied."""
    keys: list[str] = field(default_factory=list)
    """Of the samples that were read."""
    broken: list[Broken] = field(default_factory=list)
    """What could not be used and was replaced."""

    def __len__(self) -> int:
        return len(self.visits)

    def __iter__(self) -> Iterator[tuple[Sample, Visit]]:
        for visit in self.visits:
            sample = self.read(visit[-1], self.broken)
            self.keys.append(sample.key)
            yield sample, visit


class Collate(Protocol[BatchT]):
    """How samples become a batch."""

    def __call__(self, samples: RankSamples[Any]) -> BatchT:
        """The batch of these samples, with its keys and what was broken. Called in a worker.

        What it draws comes from the `stream` of its visit. If the batch has a method `pin_memory`, torch calls it
        before the batch goes to a GPU.
        """
        ...

    def num_bytes(self, num: int) -> int:
        """Of the batch of so many samples, about: whether workers have the room to share it."""
        ...


@dataclass(frozen=True)
class LoaderPlan:
    """Which samples make which batch, and how they are read."""

    batch_size: int
    """The global one, over all ranks."""
    seed: int
    shuffle_shards: int
    workers: int
    accept_changed_shards: bool = False
    patience: float = PATIENCE
    """Seconds without a sample begun by any worker, after which they are held to hang."""


class Loader(Generic[BatchT]):
    """Batches by step, for one rank."""

    def __init__(self, source: Source[Any], collate: Collate[BatchT], plan: LoaderPlan, world: World) -> None:
        """
        Raises:
            BadInput: the source is smaller than one global batch, or the ranks do not divide it.
        """
        batch_size = plan.batch_size
        if batch_size < 1 or batch_size % world.size:
            raise BadInput(f"the global batch size is {batch_size}; needed a positive multiple of {world.size} ranks")
        if len(source) < batch_size:
            raise BadInput(
                f"{len(source)} samples are fewer than one global batch of {batch_size}; "
                "lower the batch size or name more shards (data.train)"
            )
        self.plan = plan
        self.source = source
        self.workers = plan.workers
        self.steps_per_epoch = len(source) // batch_size  # the remainder is dropped: no batch mixes epochs
        self._speaks = world.is_main
        self._pins = world.device.type == "cuda"
        self._board = Board(plan.workers)
        share = batch_size // world.size
        self._steps = _StepDataset(
            source, collate, plan, range(world.rank * share, (world.rank + 1) * share), self._board
        )
        if self.workers:
            self._choose_transport()

    def batches(self, start: int, stop: int, asked: Callable[[], bool] = bool) -> Generator[BatchT, None, None]:
        """This rank's share of the batches of steps [start, stop). Closing them ends the workers.

        Args:
            asked: whether this process was asked to stop, which it looks at while it waits for workers.

        Raises:
            BadInput: no sample is found in place of a broken one; LostWorker, if one died or hangs.
            StoppedWaiting: no batch was there, and `asked` said so.
        """
        make = partial(self._from_torch, start, stop)
        watch = Watch(self._board, self.source.where, "data.workers", patience=self.plan.patience, asked=asked)
        with closing(Prefetcher(make, watch)) if self.workers else nullcontext(make()) as batches:
            for batch in batches:
                if isinstance(batch, BadInput):
                    raise batch
                yield pickle.loads(batch) if isinstance(batch, bytes) else batch

    def _choose_transport(self) -> None:
        """How workers hand over their batches here: in shared memory, through a pipe, or not at all."""
        if why := lacking(workers=self.workers):
            self.workers = 0
            self._say(f"data.workers {self.plan.workers}: {why}; batches are made in this process, which is slower")
            return
        if sys.platform != "linux":
            return
        here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        batch = self._steps.collate.num_bytes(len(self._steps.places))
        needed, free = here * (PREFETCH * self.workers + 1) * batch, free_shared_memory()
        if free < needed:
            self._steps.by_pipe = True
            self._say(
                f"{SHARED_MEMORY} has {free / 1e6:,.1f} MB free, the workers' batches take {needed / 1e6:,.1f} MB: "
                "they go through a pipe, which is slower; give it more room (Docker: --shm-size or --ipc=host)"
            )

    def _say(self, line: str) -> None:
        if self._speaks:
            log.warning("%s", line)

    def state(self, step: int) -> dict[str, Any]:
        """Where the data stands before `step`, for a checkpoint (JSON)."""
        return {
            "step": step,
            "epoch": step // self.steps_per_epoch,
            "samples": step * self.plan.batch_size,
            "seed": self.plan.seed,
            "batch_size": self.plan.batch_size,
            "shuffle_shards": self.plan.shuffle_shards,
            "fingerprint": self.source.fingerprint,
        }

    def check(self, state: Mapping[str, Any]) -> None:
        """Make sure that a saved position means the same samples here.

        Raises:
            BadInput: seed, batch size or shuffling differ, or the source does and that was not allowed.
        """
        here = self.state(0)
        for name in ("seed", "batch_size", "shuffle_shards"):
            if state.get(name) != here[name]:
                raise BadInput(
                    f"the checkpoint's data's {name} is {state.get(name)}, this run's is {here[name]}; resume with "
                    "the same, or start another run from it with --init"
                )
        there, ours = state.get("fingerprint"), self.source.fingerprint
        if there == ours or there == self.source.former_fingerprint:
            return
        if not self.plan.accept_changed_shards:
            raise BadInput(
                f"the checkpoint's fingerprint of the samples is {there}, this run's is {ours}; resume with the same "
                "shards, go on with what is there by --data.accept-changed-shards, or start another run with --init"
            )
        self._say(f"other shards than before: going on after {state['samples']} samples in the new list's order")

    def _from_torch(self, start: int, stop: int) -> Iterator[BatchT | bytes | BadInput]:
        with warnings.catch_warnings():
            # More workers than cores, and forking with threads, are the caller's choice.
            warnings.simplefilter("ignore")
            return iter(
                DataLoader(
                    self._steps,
                    sampler=range(start, stop),
                    batch_size=None,
                    collate_fn=_as_made,
                    num_workers=self.workers,
                    pin_memory=self._pins,
                    prefetch_factor=PREFETCH if self.workers else None,
                    worker_init_fn=partial(_prepare_worker, self._board) if self.workers else None,
                    # Its own, or each call would advance the run's global generator.
                    generator=torch.Generator(),
                    multiprocessing_context=START_METHOD if self.workers else None,
                )
            )


def _as_made(batch: Any) -> Any:
    """In place of torch's own collation: a batch is one already."""
    return batch


def _prepare_worker(board: Board, worker: int) -> None:
    """A worker uses one thread, keeps no large image, and leaves Ctrl-C and requests to stop to the main process."""
    return_large_memory()
    # What cannot be put into the queue to the main process is dropped there with a traceback, and waited for forever.
    give_up = staticmethod(lambda error, _: board.leave(error))
    multiprocessing.queues.Queue._on_queue_feeder_error = give_up  # type: ignore[attr-defined]
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # its threads do not survive the fork: it would wait forever
    for number in (signal.SIGINT, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    if sys.platform == "linux":
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_end_when_told, daemon=True).start()


def _end_when_told() -> None:
    """Heed SIGTERM from the main process, which sends it at its own end and waits; others mean the whole group."""
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
        pass
    os._exit(0)


class _StepDataset(Dataset["AnyBatch | bytes | BadInput"]):
    """Batches by step number; what a worker process runs."""

    def __init__(
        self, source: Source[Any], collate: Collate[AnyBatch], plan: LoaderPlan, places: range, board: Board
    ) -> None:
        """`places` are this rank's within a global batch."""
        self.source, self.collate, self.places, self.board = source, collate, places, board
        self.batch_size = plan.batch_size
        self.order = Order(source.blocks, plan.seed, plan.shuffle_shards)
        self.by_pipe = False
        """Whether batches go as bytes, where memory cannot be shared."""

    def __getitem__(self, step: int) -> AnyBatch | bytes | BadInput:
        try:
            batch = self.collate(self._share(step))
        except BadInput as error:
            return error  # as a value: raised, it would come out of the worker wrapped in a traceback
        except MemoryError:
            return BadInput("memory ran out where batches are made; lower data.workers or the batch size")
        return pickle.dumps(batch, protocol=pickle.HIGHEST_PROTOCOL) if self.by_pipe else batch

    def _share(self, step: int) -> RankSamples[Any]:
        epoch, step_of_epoch = divmod(step, len(self.source) // self.batch_size)
        start = step_of_epoch * self.batch_size
        indices = self.order.indices(epoch, start + self.places.start, start + self.places.stop).tolist()
        self.source.read_ahead(indices)
        visits = [(self.order.seed, epoch, index) for index in indices]
        return RankSamples(visits, self._read, torch.empty if self.by_pipe else _shared)

    def _read(self, index: int, broken: list[Broken]) -> Any:
        """The sample, or the first good one of its `_stand_ins`; adds the broken one that was asked for to `broken`."""
        tried, last = 0, None
        for candidate in chain([index], self._stand_ins(index)):
            try:
                self.board.reading(candidate)
                return self.source[candidate]
            except BadSample as error:
                tried, last = tried + 1, error
                if candidate == index:
                    broken.append(error.broken)
        raise BadInput(f"{tried} samples in a row are broken, the last: {last}; mend or drop these shards")

    def _stand_ins(self, index: int) -> Iterator[int]:
        """The samples after one in its shard, round to the one before it; then one each of the shards that follow."""
        sizes = self.source.blocks
        starts = np.cumsum(sizes) - sizes
        block = int(np.searchsorted(starts, index, side="right")) - 1
        place = index - int(starts[block])
        for step in range(1, min(int(sizes[block]), MAX_CONSECUTIVE_BAD)):
            yield int(starts[block] + (place + step) % sizes[block])
        for step in range(1, min(len(sizes), MAX_CONSECUTIVE_BAD)):
            other = (block + step) % len(sizes)
            if sizes[other]:  # all of a small one may be held out
                yield int(starts[other] + place % sizes[other])


def _shared(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """`torch.empty`; in a worker from memory that it shares, or the batch would be copied once more on its way."""
    if get_worker_info() is None:
        return torch.empty(shape, dtype=dtype)
    try:
        storage = torch.UntypedStorage._new_shared(math.prod(shape) * dtype.itemsize)  # as torch's own collation does
    except RuntimeError as error:
        raise BadInput(
            f"a worker cannot share its batch: {' '.join(str(error).split())}; give {SHARED_MEMORY} more room (Docker: "
            "--shm-size or --ipc=host) or lower data.workers or the batch size"
        ) from error
    return torch.empty(0, dtype=dtype).set_(storage).view(shape)
