"""Samples to batches: the order, visits, worker processes, and the replacement of broken samples.

A global batch depends only on (seed, step) and the source. A worker makes whole batches and a rank takes a contiguous
slice, so the numbers of workers and ranks do not change the training data. `collate` builds a batch from samples; for
pairs it is `PairCollate`.
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
"""Limit of the search for a replacement: this many samples of its shard, then one in each of as many other shards."""
PREFETCH = 2
"""Batches that torch's DataLoader prefetches per worker."""

BatchT = TypeVar("BatchT", bound=AnyBatch, covariant=True)
Visit = tuple[int, int, int]
"""One visit of a sample: (seed, epoch, index). It seeds every random draw of that visit (`stream`)."""


@dataclass
class RankSamples(Generic[Sample]):
    """One rank's samples of one global batch. Iterate over them once; each sample is read on demand."""

    visits: Sequence[Visit]
    read: Callable[[int, list[Broken]], Sample]
    """Returns the sample with this number, or a replacement if it is broken; appends the broken one to the list."""
    empty: Callable[..., Tensor]
    """Like `torch.empty`. In a worker it may allocate in shared memory, so that the batch is not copied again."""
    keys: list[str] = field(default_factory=list)
    """Keys of the samples read so far."""
    broken: list[Broken] = field(default_factory=list)
    """Broken samples that were replaced."""

    def __len__(self) -> int:
        return len(self.visits)

    def __iter__(self) -> Iterator[tuple[Sample, Visit]]:
        for visit in self.visits:
            sample = self.read(visit[-1], self.broken)
            self.keys.append(sample.key)
            yield sample, visit


class Collate(Protocol[BatchT]):
    """Builds a batch from samples."""

    def __call__(self, samples: RankSamples[Any]) -> BatchT:
        """Return the batch of these samples, with their keys and the broken samples. Called in a worker.

        All random draws must come from the `stream` of the visit. If the batch has a method `pin_memory`, torch calls
        that method before the batch goes to a GPU.
        """
        ...

    def num_bytes(self, num: int) -> int:
        """Approximate size in bytes of a batch of `num` samples, to test whether shared memory is large enough."""
        ...


@dataclass(frozen=True)
class LoaderPlan:
    """Settings of the loader: batch size, order, workers."""

    batch_size: int
    """Global batch size, over all ranks."""
    seed: int
    shuffle_shards: int
    workers: int
    accept_changed_shards: bool = False
    patience: float = PATIENCE
    """If no worker begins a sample for this many seconds, the workers count as hanging."""


class Loader(Generic[BatchT]):
    """Batches by step, for one rank."""

    def __init__(self, source: Source[Any], collate: Collate[BatchT], plan: LoaderPlan, world: World) -> None:
        """
        Raises:
            BadInput: the source is smaller than one global batch, or the batch size is no multiple of the ranks.
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
        """Yield this rank's slices of the batches of steps [start, stop). Closing the generator ends the workers.

        Args:
            asked: returns true if this process was asked to stop; called while it waits for workers.

        Raises:
            BadInput: no replacement was found for a broken sample; LostWorker, if a worker died or hangs.
            StoppedWaiting: `asked` returned true before the next batch was ready.
        """
        make = partial(self._from_torch, start, stop)
        watch = Watch(self._board, self.source.where, "data.workers", patience=self.plan.patience, asked=asked)
        with closing(Prefetcher(make, watch)) if self.workers else nullcontext(make()) as batches:
            for batch in batches:
                if isinstance(batch, BadInput):
                    raise batch
                yield pickle.loads(batch) if isinstance(batch, bytes) else batch

    def _choose_transport(self) -> None:
        """Choose how workers send their batches: shared memory, a pipe, or no workers at all."""
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
                f"batches go through a pipe, which is slower; give {SHARED_MEMORY} more room (Docker: --shm-size or "
                "--ipc=host)"
            )

    def _say(self, line: str) -> None:
        if self._speaks:
            log.warning("%s", line)

    def state(self, step: int) -> dict[str, Any]:
        """The position in the data before `step`, for a checkpoint (JSON)."""
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
        """Check that a saved position means the same samples in this loader.

        Raises:
            BadInput: the seed, batch size or shuffling differs; or the source differs and that is not allowed.
        """
        here = self.state(0)
        for name in ("seed", "batch_size", "shuffle_shards"):
            if state.get(name) != here[name]:
                raise BadInput(
                    f"the {name} of the checkpoint's data is {state.get(name)}, this run's is {here[name]}; resume "
                    f"with the same {name}, or start another run from the checkpoint with --init"
                )
        there, ours = state.get("fingerprint"), self.source.fingerprint
        if there == ours or there == self.source.former_fingerprint:
            return
        if not self.plan.accept_changed_shards:
            raise BadInput(
                f"the checkpoint's fingerprint of the samples is {there}, this run's is {ours}; resume with the same "
                "shards, accept these shards with --data.accept-changed-shards, or start another run with --init"
            )
        self._say(
            f"the shards have changed: the run goes on after {state['samples']} samples in the order of the new list"
        )

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
                    # Without its own generator, each call would advance the run's global one.
                    generator=torch.Generator(),
                    multiprocessing_context=START_METHOD if self.workers else None,
                )
            )


def _as_made(batch: Any) -> Any:
    """Replaces torch's collation: the dataset returns whole batches."""
    return batch


def _prepare_worker(board: Board, worker: int) -> None:
    """Set up a worker: one thread, no large image kept in memory, Ctrl-C and stop requests left to the main process."""
    return_large_memory()
    # By default, the queue drops a batch that it cannot send, prints a traceback, and the main process waits forever.
    give_up = staticmethod(lambda error, _: board.leave(error))
    multiprocessing.queues.Queue._on_queue_feeder_error = give_up  # type: ignore[attr-defined]
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # its threads do not survive a fork: it would hang
    for number in (signal.SIGINT, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    if sys.platform == "linux":
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_end_when_told, daemon=True).start()


def _end_when_told() -> None:
    """Exit when the main process sends SIGTERM, as it does when it ends. Ignore others: they go to the whole group."""
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
        pass
    os._exit(0)


class _StepDataset(Dataset["AnyBatch | bytes | BadInput"]):
    """Batches by step number; workers run it."""

    def __init__(
        self, source: Source[Any], collate: Collate[AnyBatch], plan: LoaderPlan, places: range, board: Board
    ) -> None:
        """`places` are the positions of this rank's samples in a global batch."""
        self.source, self.collate, self.places, self.board = source, collate, places, board
        self.batch_size = plan.batch_size
        self.order = Order(source.blocks, plan.seed, plan.shuffle_shards)
        self.by_pipe = False
        """If true, batches are sent as bytes through a pipe, because shared memory is too small."""

    def __getitem__(self, step: int) -> AnyBatch | bytes | BadInput:
        try:
            batch = self.collate(self._share(step))
        except BadInput as error:
            return error  # returned, not raised: torch would wrap it in a traceback
        except MemoryError:
            return BadInput("memory ran out while a batch was made; lower data.workers or the batch size")
        return pickle.dumps(batch, protocol=pickle.HIGHEST_PROTOCOL) if self.by_pipe else batch

    def _share(self, step: int) -> RankSamples[Any]:
        epoch, step_of_epoch = divmod(step, len(self.source) // self.batch_size)
        start = step_of_epoch * self.batch_size
        indices = self.order.indices(epoch, start + self.places.start, start + self.places.stop).tolist()
        self.source.read_ahead(indices)
        visits = [(self.order.seed, epoch, index) for index in indices]
        return RankSamples(visits, self._read, torch.empty if self.by_pipe else _shared)

    def _read(self, index: int, broken: list[Broken]) -> Any:
        """The sample, or its first good replacement (`_stand_ins`). A broken sample is appended to `broken`."""
        tried, last = 0, None
        for candidate in chain([index], self._stand_ins(index)):
            try:
                self.board.reading(candidate)
                return self.source[candidate]
            except BadSample as error:
                tried, last = tried + 1, error
                if candidate == index:
                    broken.append(error.broken)
        raise BadInput(
            f"{tried} samples in a row are broken, the last is {last}; repair these shards or leave them out"
        )

    def _stand_ins(self, index: int) -> Iterator[int]:
        """Replacements for a sample: the next ones in its shard (cyclic), then one of each following shard."""
        sizes = self.source.blocks
        starts = np.cumsum(sizes) - sizes
        block = int(np.searchsorted(starts, index, side="right")) - 1
        place = index - int(starts[block])
        for step in range(1, min(int(sizes[block]), MAX_CONSECUTIVE_BAD)):
            yield int(starts[block] + (place + step) % sizes[block])
        for step in range(1, min(len(sizes), MAX_CONSECUTIVE_BAD)):
            other = (block + step) % len(sizes)
            if sizes[other]:  # a small shard may be held out completely
                yield int(starts[other] + place % sizes[other])


def _shared(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """`torch.empty`; in a worker it allocates shared memory, which saves one copy of the batch."""
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
