"""Requests wait for a turn in the order of their arrival; a bounded number may wait."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import TypeVar

T = TypeVar("T")

SMOOTHING = 0.2
"""Weight of the latest turn in the running mean of a turn's length."""


class Busy(Exception):
    """No more requests may wait. `seconds` says when it is worth asking again."""

    def __init__(self, seconds: int) -> None:
        super().__init__(f"the server is busy; ask again in {seconds} s")
        self.seconds = seconds


class Turns:
    """One turn at a time.

    Args:
        most: how many may wait while another has the turn.
    """

    def __init__(self, most: int) -> None:
        self.most, self.here = most, 0
        self._turn = asyncio.Lock()
        self._usual = 1.0  # seconds

    @asynccontextmanager
    async def one(self) -> AsyncIterator[None]:
        """Wait for a turn; a request that is cancelled gives up its place.

        Raises:
            Busy: too many wait.
        """
        if self.here > self.most:
            raise Busy(max(1, math.ceil(self._usual * self.here / 2)))
        self.here += 1
        try:
            async with self._turn:
                began = time.monotonic()
                yield
                self._usual += SMOOTHING * (time.monotonic() - began - self._usual)
        finally:
            self.here -= 1


async def to_its_end(running: asyncio.Future[T], stop: Callable[[], None] = lambda: None) -> T:
    """The result of a thread. If cancelled, stop the thread and wait for it: the next turn must not run beside it."""
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        stop()
        while not running.done():
            with suppress(asyncio.CancelledError):  # also if it is cancelled again
                await asyncio.wait([running])
        if not running.cancelled():
            running.exception()  # read here, because nobody else reads it
        raise
