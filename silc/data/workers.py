"""Worker processes: test if they can start, record what each one reads, and explain why one died.

A worker may be killed when memory runs out, crash in a decoder, find `/dev/shm` full or hang in a read. `Watch` waits
for workers. It raises an error of one line with the likely cause, and it notices requests to stop while it waits.

`Prefetcher` delivers the workers' results; its thread also starts them. torch's own wait has no timeout and cannot be
interrupted, and its SIGCHLD handler would raise in the middle of a step. With `Prefetcher`, a lost worker raises only
when the next item is requested, between two steps.
"""

from __future__ import annotations

import mmap
import multiprocessing
import multiprocessing.connection
import os
import queue
import shutil
import signal
import sys
import threading
import time
from concurrent.futures import BrokenExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, NoReturn, TypeVar

import numpy as np

from silc.errors import BadInput, Preempted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from multiprocessing.process import BaseProcess

Item = TypeVar("Item")
SHARED_MEMORY = Path("/dev/shm")
START_METHOD = "fork" if sys.platform == "linux" else None
"""Forked workers share the index; other start methods would copy it to each worker."""
POLL = 0.5
"""Seconds between two checks of the workers and of requests to stop, while no item arrives."""
PATIENCE = 600.0
"""If no worker begins a sample for this many seconds, the workers count as hanging."""
ENDING = 10.0
"""Seconds that workers have to end, and seconds to wait for the last result of a worker that has ended."""
SLOT = np.dtype([("reading", "<i8"), ("turns", "<i8"), ("said", "S400")])


class LostWorker(BadInput):
    """A worker process died, hangs or could not send its result. The message is one line with the likely cause."""


class StoppedWaiting(Preempted):
    """This process was asked to stop while it waited for workers."""


class Board:
    """Anonymous memory shared with forked workers: the sample each one reads, and its error message if it failed."""

    def __init__(self, workers: int) -> None:
        self._slots = np.frombuffer(mmap.mmap(-1, max(1, workers) * SLOT.itemsize), SLOT)

    def reading(self, number: int) -> None:
        """In a worker: record that it begins this sample."""
        slot = self._of(multiprocessing.current_process())
        slot["reading"] = number
        slot["turns"] += 1

    def leave(self, error: BaseException) -> NoReturn:
        """In a worker: record the error's message and exit."""
        words = " ".join(str(error).split()) or type(error).__name__
        self._of(multiprocessing.current_process())["said"] = words.encode(errors="replace")[:400]
        os._exit(1)

    def turns(self) -> int:
        """Number of samples begun so far, over all workers."""
        return int(self._slots["turns"].sum())

    def of(self, process: BaseProcess) -> tuple[int | None, str]:
        """The sample that a worker began last (None before the first), and its error message (empty if none)."""
        slot = self._of(process)
        return int(slot["reading"]) if slot["turns"] else None, bytes(slot["said"]).decode(errors="replace")

    def _of(self, process: BaseProcess) -> Any:
        # multiprocessing numbers processes in the order of their start, so a pool's numbers are consecutive.
        number = process.name.rpartition("-")[2]
        return self._slots[int(number) % len(self._slots) if number.isdigit() else 0]

    def __reduce__(self) -> Any:
        return Board, (len(self._slots),)  # a process that was not forked gets a board of its own


class Watch:
    """Waits for the results of a group of worker processes.

    Args:
        board: the memory where the workers record their samples.
        named: returns a sample's name for its number.
        setting: name of the setting for the number of workers, for messages.
        patience: see `PATIENCE`.
        asked: returns true if this process was asked to stop.
    """

    def __init__(
        self,
        board: Board,
        named: Callable[[int], str],
        setting: str,
        *,
        patience: float = PATIENCE,
        asked: Callable[[], bool] = bool,
    ) -> None:
        self.board, self.named, self.setting = board, named, setting
        self.patience, self.asked = patience, asked
        self.processes: Sequence[BaseProcess] = ()

    def until(self, come: Callable[[float], bool]) -> None:
        """Call `come(seconds)` until it returns true; `come` itself waits up to that many seconds.

        Raises:
            LostWorker: a worker died, or no worker has begun a sample for `patience` seconds.
            StoppedWaiting: this process was asked to stop.
        """
        turns, since, done = self.board.turns(), time.monotonic(), None
        while not come(POLL):
            if self.asked():
                raise StoppedWaiting
            now, moved = time.monotonic(), self.board.turns()
            # Workers that end normally exit with code 0, possibly before their last result has arrived.
            if any(process.exitcode == 0 for process in self.processes):
                done = done or now
            if done is None or now - done > ENDING or any(process.exitcode for process in self.processes):
                self.check()
            if moved != turns:
                turns, since = moved, now
            elif now - since > self.patience:
                raise LostWorker(self._hanging(now - since))

    def check(self) -> None:
        """Check that all workers are alive.

        Raises:
            LostWorker: a worker has ended.
        """
        gone = [process for process in self.processes if not process.is_alive()]
        if gone:  # after one worker dies, a pool ends the others by SIGTERM; report the first
            raise LostWorker(self._became_of(min(gone, key=lambda process: process.exitcode == -signal.SIGTERM)))

    def end(self) -> None:
        """Kill the workers at once."""
        for process in self.processes:
            process.kill()
        for process in self.processes:
            process.join(1.0)  # a worker that waits for a dead file system does not end

    def _became_of(self, process: BaseProcess) -> str:
        number, said = self.board.of(process)
        who = f"worker process {process.pid}"
        at = "" if number is None else f", which last began {self.named(number)},"
        if said:
            return f"{who} could not send its result: {said}; {self._room()}"
        code = process.exitcode or 0
        if code >= 0:
            return f"{who}{at} ended with exit code {code}; see its error above, or try {self.setting} 0"
        name = next((known.name for known in signal.Signals if known == -code), str(-code))
        if name == "SIGKILL":
            return (
                f"{who}{at} was killed (SIGKILL), as the system does when memory runs out; "
                f"lower {self.setting} or the batch size, or give the job more memory"
            )
        if name == "SIGBUS":
            return f"{who}{at} died of SIGBUS: there was no room for its result; {self._room()}"
        return f"{who}{at} died of {name}: an image may have crashed a decoding library; leave that sample out"

    def _room(self) -> str:
        free = f"{SHARED_MEMORY} has {free_shared_memory() / 1e6:,.0f} MB free"
        more = "(Docker: --shm-size or --ipc=host)"
        return f"{free}: give {SHARED_MEMORY} more room {more} or lower {self.setting} or the batch size"

    def _hanging(self, seconds: float) -> str:
        numbers = [self.board.of(process)[0] for process in self.processes]
        at = list(dict.fromkeys(self.named(number) for number in numbers if number is not None))
        began = f"; last begun: {', '.join(at[:4])}" if at else ""
        return (
            f"no worker process has begun another sample for {seconds:.0f} s{began}; probably a file system does "
            "not answer; check the one that holds these samples"
        )


class Prefetcher(Generic[Item]):
    """Iterator over the items of `start()`, which runs in a thread; `start` forks the workers that `watch` checks."""

    def __init__(self, start: Callable[[], Iterator[Item]], watch: Watch) -> None:
        self._start, self._watch = start, watch
        self._wanted = threading.Semaphore(0)
        self._come: queue.SimpleQueue[tuple[str, Item | BaseException | None]] = queue.SimpleQueue()
        self._open = True
        self._thread = threading.Thread(target=self._fetch, name="prefetcher", daemon=True)
        self._thread.start()

    def __iter__(self) -> Iterator[Item]:
        return self

    def __next__(self) -> Item:
        """The next item.

        Raises:
            LostWorker, StoppedWaiting: as `Watch.until`; LostWorker too, if a worker cannot be started or reached.
        """
        self._wanted.release()
        come: list[tuple[str, Item | BaseException | None]] = []

        def ready(seconds: float) -> bool:
            try:
                come.append(self._come.get(timeout=seconds))
            except queue.Empty:
                return False
            return True

        try:
            self._watch.until(ready)
            ((what, item),) = come
            if what == "item":
                return item  # type: ignore[return-value]
            if what == "error":
                assert isinstance(item, BaseException)
                self._fail(item)
        except BaseException:
            # The thread may stay in torch's wait for some seconds. Neither it nor the workers are needed any more.
            self._watch.end()
            self._open = False
            raise
        raise StopIteration

    def _fail(self, item: BaseException) -> NoReturn:
        if isinstance(item, ConnectionError | EOFError | BrokenExecutor):
            # A killed worker closes its pipes and its sentinel first and ends a moment later: wait for that.
            ends = {process.sentinel: process for process in self._watch.processes}
            for end in multiprocessing.connection.wait(list(ends), ENDING):
                ends[end].join(ENDING)  # type: ignore[index]
        self._watch.check()  # if a worker has ended, that is the cause of the error
        if isinstance(item, OSError) or "Too many open files" in str(item):
            raise LostWorker(
                f"worker processes cannot be started or do not answer: {' '.join(str(item).split())}; lower "
                f"{self._watch.setting} (0 starts none) or raise the limits of open files and processes (ulimit -n, -u)"
            ) from item
        raise item

    def close(self) -> None:
        """End the processes and the thread."""
        was_open, self._open = self._open, False
        self._wanted.release()
        if was_open:
            self._thread.join(ENDING)
        if self._thread.is_alive():
            self._watch.end()

    def _fetch(self) -> None:
        before = set(multiprocessing.active_children())
        try:
            try:
                items = self._start()
            finally:
                self._watch.processes = [child for child in multiprocessing.active_children() if child not in before]
            while self._wanted.acquire() and self._open:
                self._come.put(("item", next(items)))
        except StopIteration:
            self._come.put(("end", None))
        except BaseException as error:
            self._come.put(("error", error))


def free_shared_memory() -> int:
    """Free bytes in `SHARED_MEMORY`; 0 if it does not exist."""
    try:
        return shutil.disk_usage(SHARED_MEMORY).free
    except OSError:
        return 0


def lacking(workers: int) -> str:
    """Why this number of worker processes cannot be started; empty if they can."""
    try:
        # About as many locks as the workers' queues need; each takes one page of shared memory.
        context = multiprocessing.get_context(START_METHOD)
        _ = [context.Lock() for _ in range(3 * workers + 9)]
    except (OSError, ImportError) as error:
        return (
            f"processes cannot share memory: {error} (does {SHARED_MEMORY} exist, with free space, and is it writable?)"
        )
    return ""


def end_with(main: int) -> None:
    """In a worker: exit soon after the main process ends, because that one may be killed without notice."""

    def look() -> None:
        while os.getppid() == main:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=look, daemon=True).start()
