"""Items that worker processes make, fetched by a thread: torch's own wait can neither be left nor bounded.

The thread starts the processes too. So torch leaves SIGCHLD alone, whose handler would raise in the middle of a step;
a lost worker is met where the next item is asked for, between two steps.
"""

from __future__ import annotations

import multiprocessing.connection
import queue
import threading
from typing import TYPE_CHECKING, Generic, NoReturn, TypeVar

from silc.data.workers import ENDING, LostWorker

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from silc.data.workers import Watch

Item = TypeVar("Item")


class Feed(Generic[Item]):
    """An iterator over what `start` returns; `start` forks the processes that `watch` is to look at."""

    def __init__(self, start: Callable[[], Iterator[Item]], watch: Watch) -> None:
        self._start, self._watch = start, watch
        self._wanted = threading.Semaphore(0)
        self._come: queue.SimpleQueue[tuple[str, Item | BaseException | None]] = queue.SimpleQueue()
        self._open = True
        self._thread = threading.Thread(target=self._fetch, name="feed", daemon=True)
        self._thread.start()

    def __iter__(self) -> Iterator[Item]:
        return self

    def __next__(self) -> Item:
        """
        Raises:
            LostWorker, StoppedWaiting: as `Watch.until` does; or a process could not be started or heard.
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
            # The thread sits in torch's wait for some seconds more; nobody needs it, nor the processes.
            self._watch.end()
            self._open = False
            raise
        raise StopIteration

    def _fail(self, item: BaseException) -> NoReturn:
        if isinstance(item, ConnectionError | EOFError):
            # A worker that is being killed closes its ends first, the sentinel too, and is over a moment later.
            ends = {process.sentinel: process for process in self._watch.processes}
            for end in multiprocessing.connection.wait(list(ends), ENDING):
                ends[end].join(ENDING)  # type: ignore[index]
        self._watch.check()  # one that is gone is the cause of whatever was raised
        if isinstance(item, OSError) or "Too many open files" in str(item):
            raise LostWorker(
                f"worker processes cannot be started or heard: {' '.join(str(item).split())}; lower "
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
            while self._asked_for():
                self._come.put(("item", next(items)))
        except StopIteration:
            self._come.put(("end", None))
        except BaseException as error:
            self._come.put(("error", error))

    def _asked_for(self) -> bool:
        self._wanted.acquire()
        return self._open
