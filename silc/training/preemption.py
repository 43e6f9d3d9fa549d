"""Asked to stop (SIGTERM, or SIGUSR1 as batch systems send ahead of it): how a process hears it and all ranks agree.

A handler only sets a flag. Training looks at it where the ranks agree on every step anyway; an evaluation, whose ranks
meet seldom, through `Interruptible`.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from silc.distributed import World
from silc.types import Preempted

if TYPE_CHECKING:
    from types import FrameType, TracebackType

SIGNALS = (signal.SIGTERM, signal.SIGUSR1)


class Preemption:
    """Within it the signals are noted instead of ending the process. Python hears them in its main thread alone."""

    def __init__(self) -> None:
        self.name = ""
        """Of the signal that came; empty before."""

    def asked(self) -> bool:
        """Whether this process was asked to stop."""
        return bool(self.name)

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
        self.name = signal.Signals(number).name


@dataclass(frozen=True)
class Interruptible(World):
    """A world in which all ranks leave together, at a `collect`, once one of them was asked to stop.

    Ranks that only ever meet in `collect` need no other agreement: whoever wants to leave says so in its next one,
    which is the same one for all. `heed` may be called in between, as long as every rank has a `collect` to come.
    """

    asked: Callable[[], bool] = bool

    def collect(self, value: Any) -> list[Any]:
        """Every rank's value.

        Raises:
            Preempted: on every rank, where any of them was asked to stop.
        """
        everyone = super().collect((value, self.asked()))
        if any(asked for _, asked in everyone):
            raise Preempted
        return [theirs for theirs, _ in everyone]

    def heed(self, *_: Any) -> None:
        """Leave now, rather than at the next `collect`, where this rank was asked to stop."""
        if self.asked():
            self.collect(None)
