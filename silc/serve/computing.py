"""Models compute in one thread, one request after the other; a cancelled request stops at its next layer."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from torch.nn.modules.module import register_module_forward_pre_hook

from silc.errors import BadInput
from silc.serve.turns import Turns, to_its_end

T = TypeVar("T")


class Stopped(Exception):
    """The client is gone."""


class TooLong(BadInput):
    """An answer took longer than the server allows."""


class Computing:
    """The thread that computes.

    Args:
        waiting: requests that may wait for it.
        seconds: the longest one may take.
    """

    def __init__(self, waiting: int, seconds: float) -> None:
        self.turns, self.seconds = Turns(waiting), seconds
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="silc-serve")

    async def run(self, work: Callable[[], T]) -> T:
        """The result of the work. If cancelled, waiting work never begins; running work is stopped and waited for.

        Raises:
            Busy: too many wait.
            TooLong: the work did not end in time.
        """
        async with self.turns.one():
            stop = threading.Event()
            running = asyncio.get_running_loop().run_in_executor(self._thread, self._stoppable, work, stop)
            return await to_its_end(running, stop.set)

    def close(self) -> None:
        """End the thread when it has nothing left to do."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _stoppable(self, work: Callable[[], T], stop: threading.Event) -> T:
        mine, until = threading.get_ident(), time.monotonic() + self.seconds

        def look(*_: Any) -> None:
            if threading.get_ident() != mine:
                return
            if stop.is_set():
                raise Stopped
            if time.monotonic() > until:
                raise TooLong(
                    f"the answer took longer than {self.seconds:g} s; use fewer words or a smaller picture, or "
                    "start `silc serve` with more --seconds"
                )

        hook = register_module_forward_pre_hook(look)  # on every layer, so that no model needs a change
        try:
            return work()
        finally:
            hook.remove()
