"""Requests to stop (SIGTERM, SIGUSR1 as batch systems send before it, Ctrl-C): how processes notice, how ranks agree.

A handler only sets a flag. Training reads it where the ranks agree on every step anyway; an evaluation, whose ranks
meet seldom, reads it through `Interruptible`.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from silc.distributed import World
from silc.errors import Preempted

if TYPE_CHECKING:
    from types import FrameType, TracebackType

SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
FIRST_CTRL_C = b"\nsilc: Ctrl-C: saving after this step; press Ctrl-C again to leave at once\n"


class Preemption:
    """Context in which the signals are noted instead of ending the process. Python does so in its main thread only.

    The first Ctrl-C is noted; the second one raises `KeyboardInterrupt` as usual.
    """

    def __init__(self) -> None:
        self.name = ""
        """Name of the signal that came; empty before."""
        self._since = 0.0

    def asked(self, seconds: float = 0.0) -> bool:
        """Whether this process was asked to stop, at least `seconds` ago."""
        return bool(self.name) and time.monotonic() - self._since >= seconds

    @property
    def exit_code(self) -> int:
        """The exit code of a process that was asked to stop: 130 after Ctrl-C, else 143."""
        return 130 if self.name == "SIGINT" else 143

    def __enter__(self) -> Preemption:
        here = threading.current_thread() is threading.main_thread()
        self.before = {number: signal.signal(number, self._note) for number in SIGNALS if here}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._since = self._since or time.monotonic()
        self.name = signal.Signals(number).name
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            # Not by print: the handler may run in the middle of one.
            with contextlib.suppress(OSError):
                os.write(2, FIRST_CTRL_C)


@dataclass(frozen=True)
class Interruptible(World):
    """A world in which all ranks stop together, at a `collect`, once one of them was asked to stop.

    It is for ranks that meet only in `collect`: a rank that is to stop says so in its next one, which is the same one
    for all. `heed` may be called in between, as long as every rank has a `collect` to come.
    """

    asked: Callable[[], bool] = bool

    def collect(self, value: Any) -> list[Any]:
        """Every rank's value.

        Raises:
            Preempted: on every rank, if any of them was asked to stop.
        """
        everyone = super().collect((value, self.asked()))
        if any(asked for _, asked in everyone):
            raise Preempted
        return [theirs for theirs, _ in everyone]

    def heed(self, *_: Any) -> None:
        """Call between collectives: if this rank was asked to stop, all ranks stop at the next one."""
        if self.asked():
            self.collect(None)
