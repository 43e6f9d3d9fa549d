"""Pairs to batches: the order, the draws of each visit, worker processes, and what happens to broken samples.

A global batch is a function of (seed, step) and the source alone. Workers make whole batches, ranks take contiguous
slices, so neither their number changes what is trained on.
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
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, get_worker_info

from silc.data.feed import Feed
from silc.data.order import Order
from silc.data.pairs import BadSample
from silc.data.photometric import draw, recolour
from silc.data.streams import stream
from silc.data.workers import (
    PATIENCE,
    SHARED_MEMORY,
    START_METHOD,
    Board,
    Watch,
    free_shared_memory,
    lacking,
    leave_saying,
)
from silc.heap import return_large_memory
from silc.types import BadInput, Batch, Views

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Mapping, Sequence

    from torch import Tensor

    from silc.data.config import PhotometricConfig
    from silc.data.crops import MultiCrop
    from silc.data.pairs import Pair, Pairs
    from silc.types import Broken, Tokenizer

log = logging.getLogger(__name__)

MAX_CONSECUTIVE_BAD = 100
"""A replacement is looked for among this many samples of the shard, and then in as many shards."""
PREFETCH = 2
"""Batches that torch's DataLoader keeps ready for each worker."""

# What a worker ships: tuples and dicts, which torch's pinning thread looks into; a dataclass it does not.
_Crops = tuple["Tensor | None", "Tensor | None"]  # globals [G, B, 3, R, R], locals [L, B, 3, r, r]
_Drawn = tuple["np.ndarray", "np.ndarray"]  # what is to be done to their colours, DRAWN [G, B] and [L, B]
_Parts = tuple["Tensor | None", _Crops, "_Drawn | None", "Tensor", list[str], list["Broken"]]


class Loader:
    """Batches by step, for one rank."""

    def __init__(
        self,
        pairs: Pairs,
        views: MultiCrop,
        tokenizer: Tokenizer,
        *,
        batch_size: int,
        seed: int,
        shuffle_shards: int,
        workers: int,
        accept_changed_shards: bool = False,
        rank: int = 0,
        world_size: int = 1,
        photometric: PhotometricConfig | None = None,
        device: torch.device | None = None,
        patience: float = PATIENCE,
    ) -> None:
        """Args:
            batch_size: the global one, over all ranks.
            photometric: what is done to the colours of crops.
            device: where views are wanted. An accelerator changes the colours of a whole batch itself; for any other
                the workers do, view by view.
            patience: seconds without a sample begun by any worker, after which they are held to hang.

        Raises:
            BadInput: the source is smaller than one global batch, or the ranks do not divide it.
        """
        if batch_size < 1 or batch_size % world_size:
            raise BadInput(f"the global batch size is {batch_size}; needed a positive multiple of {world_size} ranks")
        if len(pairs) < batch_size:
            raise BadInput(
                f"{len(pairs)} samples are fewer than one global batch of {batch_size}; "
                "lower the batch size or name more shards (data.train)"
            )
        self.batch_size = batch_size
        self.seed = seed
        self.shuffle_shards = shuffle_shards
        self.fingerprint = pairs.fingerprint
        self.workers, self.patience = workers, patience
        self.accept_changed_shards = accept_changed_shards
        self.speaks = rank == 0
        self.device = device or torch.device("cpu")
        self.steps_per_epoch = len(pairs) // batch_size  # the remainder is dropped: no batch mixes epochs
        self.num_samples = len(pairs)
        order = Order(pairs.blocks, seed, shuffle_shards)
        colours = photometric if photometric and photometric.on else None
        whole = self.device.type != "cpu"
        pairs = pairs.reduced(views.suffices) if views.config.scaled_decoding else pairs
        self._board = Board(workers)
        self._steps = _Steps(
            pairs,
            views,
            tokenizer,
            order,
            batch_size,
            self.steps_per_epoch,
            rank,
            world_size,
            colours,
            whole,
            self._board,
        )
        if workers:
            self._choose_transport()

    def batches(self, start: int, stop: int, asked: Callable[[], bool] = bool) -> Generator[Batch, None, None]:
        """This rank's share of the batches of steps [start, stop). Closing them ends the workers.

        Args:
            asked: whether this process was asked to stop, which it looks at while it waits for workers.

        Raises:
            BadInput: no sample is found in place of a broken one; LostWorker, if one died or hangs.
            StoppedWaiting: no batch was there, and `asked` said so.
        """
        with self._source(start, stop, asked) as source:
            for made in source:
                if isinstance(made, BadInput):
                    raise made
                original, crops, drawn, text, keys, broken = pickle.loads(made) if isinstance(made, bytes) else made
                if drawn is not None:
                    crops = _recoloured(crops, drawn, self.device)
                yield Batch(Views(original, *crops), text, keys, broken)

    def _choose_transport(self) -> None:
        """How workers hand over their batches here: in shared memory, through a pipe, or not at all."""
        if why := lacking(workers=self.workers):
            self.workers = 0
            self._say(
                f"data.workers {self._board.num_workers}: {why}; batches are made in this process, which is slower"
            )
            return
        if sys.platform != "linux":
            return
        here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        needed, free = here * (PREFETCH * self.workers + 1) * self._steps.num_bytes(), free_shared_memory()
        if free < needed:
            self._steps.by_pipe = True
            self._say(
                f"{SHARED_MEMORY} has {free / 1e6:,.1f} MB free, the workers' batches take {needed / 1e6:,.1f} MB: "
                "they go through a pipe, which is slower; give it more room (Docker: --shm-size or --ipc=host)"
            )

    def _source(
        self, start: int, stop: int, asked: Callable[[], bool]
    ) -> AbstractContextManager[Iterator[_Parts | bytes | BadInput]]:
        if not self.workers:
            return nullcontext(self._made(start, stop))
        watch = Watch(self._board, self._steps.pairs.where, "data.workers", patience=self.patience, asked=asked)
        return closing(Feed(partial(self._made, start, stop), watch))

    def _say(self, line: str) -> None:
        if self.speaks:
            log.warning("%s", line)

    def state(self, step: int) -> dict[str, Any]:
        """Where the data stands before `step`, for a checkpoint (JSON)."""
        return {
            "step": step,
            "epoch": step // self.steps_per_epoch,
            "samples": step * self.batch_size,
            "seed": self.seed,
            "batch_size": self.batch_size,
            "shuffle_shards": self.shuffle_shards,
            "fingerprint": self.fingerprint,
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
        there, ours = state.get("fingerprint"), self.fingerprint
        if there == ours or there == self._steps.pairs.former_fingerprint:
            return
        if not self.accept_changed_shards:
            raise BadInput(
                f"the checkpoint's fingerprint of the samples is {there}, this run's is {ours}; resume with the same "
                "shards, go on with what is there by --data.accept-changed-shards, or start another run with --init"
            )
        if self.speaks:
            log.warning("other shards than before: going on after %d samples in the new list's order", state["samples"])

    def _made(self, start: int, stop: int) -> Iterator[_Parts | bytes | BadInput]:
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
                    pin_memory=self.device.type == "cuda",
                    prefetch_factor=PREFETCH if self.workers else None,
                    worker_init_fn=partial(_settle, self._board) if self.workers else None,
                    # Its own, or each call would advance the run's global generator.
                    generator=torch.Generator(),
                    multiprocessing_context=START_METHOD if self.workers else None,
                )
            )


def _as_made(parts: Any) -> Any:
    """In place of torch's own collation, which refuses arrays of records."""
    return parts


def _settle(board: Board, worker: int) -> None:
    """A worker uses one thread, keeps no large image, and leaves Ctrl-C and requests to stop to the main process."""
    return_large_memory()
    # What cannot be put into the queue to the main process is dropped there with a traceback, and waited for forever.
    give_up = staticmethod(lambda error, _: leave_saying(board, error))
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


@dataclass
class _Steps(Dataset["_Parts | bytes | BadInput"]):
    """Batches by step number; what a worker process runs."""

    pairs: Pairs
    views: MultiCrop
    tokenizer: Tokenizer
    order: Order
    batch_size: int
    steps_per_epoch: int
    rank: int
    world_size: int
    photometric: PhotometricConfig | None
    leaves_colours: bool
    """Whether what is to be done to colours is only drawn here, and handed on."""
    board: Board
    by_pipe: bool = False
    """Whether batches go as bytes, where memory cannot be shared."""

    def __getitem__(self, step: int) -> _Parts | bytes | BadInput:
        try:
            made = self._batch(step)
        except BadInput as error:
            return error  # as a value: raised, it would come out of the worker wrapped in a traceback
        except MemoryError:
            return BadInput("memory ran out where batches are made; lower data.workers or the batch size")
        return pickle.dumps(made, protocol=pickle.HIGHEST_PROTOCOL) if self.by_pipe else made

    def num_bytes(self) -> int:
        """Of a rank's share of a batch, about."""
        views = [view for view in self.views.room(empty=partial(torch.empty, device="meta")) if view is not None]
        pixels = sum(view.numel() for view in views) + 3 * self.views.size**2 * self.views.original
        return self.batch_size // self.world_size * (pixels + 8 * self.tokenizer.context_length)

    def _batch(self, step: int) -> _Parts:
        epoch, step_of_epoch = divmod(step, self.steps_per_epoch)
        share = self.batch_size // self.world_size
        start = step_of_epoch * self.batch_size + self.rank * share
        keys, captions, originals, turns = [], [], [], []
        broken: list[Broken] = []
        crops = self.views.room(share, empty=torch.empty if self.by_pipe else _shared)
        indices = self.order.indices(epoch, start, start + share).tolist()
        self.pairs.read_ahead(indices)
        for place, index in enumerate(indices):
            turn = (self.order.seed, epoch, index)
            pair = self._read(index, broken)
            keys.append(pair.key)
            captions.append(pair.captions[int(stream("caption", *turn).integers(len(pair.captions)))])
            global_views, local_views = (None if views is None else views[:, place] for views in crops)
            original, _, _ = self.views(pair.pixels, turn, (global_views, local_views))
            originals += [original] if original is not None else []
            turns.append(turn)
        drawn = self._draw(turns)
        if drawn is not None and not self.leaves_colours:
            crops, drawn = _recoloured(crops, drawn), None
        return torch.stack(originals) if originals else None, crops, drawn, self.tokenizer(captions), keys, broken

    def _draw(self, turns: Sequence[tuple[int, ...]]) -> _Drawn | None:
        """What is to be done to the colours of each crop."""
        config, crops = self.photometric, self.views.config
        if config is None:
            return None
        return draw(config, "global", turns, crops.num_global), draw(config, "local", turns, crops.num_local)

    def _read(self, index: int, broken: list[Broken]) -> Pair:
        """The pair, or the first good one of its `_stand_ins`; adds the broken one that was asked for to `broken`."""
        tried, last = 0, None
        for candidate in chain([index], self._stand_ins(index)):
            try:
                self.board.reading(candidate)
                return self.pairs[candidate]
            except BadSample as error:
                tried, last = tried + 1, error
                if candidate == index:
                    broken.append(error.broken)
        raise BadInput(f"{tried} samples in a row are broken, the last: {last}; mend or drop these shards")

    def _stand_ins(self, index: int) -> Iterator[int]:
        """The samples after one in its shard, round to the one before it; then one each of the shards that follow."""
        sizes = self.pairs.blocks
        starts = np.cumsum(sizes) - sizes
        block = int(np.searchsorted(starts, index, side="right")) - 1
        place = index - int(starts[block])
        for step in range(1, min(int(sizes[block]), MAX_CONSECUTIVE_BAD)):
            yield int(starts[block] + (place + step) % sizes[block])
        for step in range(1, min(len(sizes), MAX_CONSECUTIVE_BAD)):
            other = (block + step) % len(sizes)
            if sizes[other]:  # all of a small one may be held out
                yield int(starts[other] + place % sizes[other])


def _recoloured(crops: _Crops, drawn: _Drawn, device: torch.device | None = None) -> _Crops:
    """The crops, moved where they are wanted, in their new colours."""
    moved = (None if views is None else views.to(device, non_blocking=True) for views in crops)
    global_views, local_views = (
        None if views is None else recolour(views, what) for views, what in zip(moved, drawn, strict=True)
    )
    return global_views, local_views


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
