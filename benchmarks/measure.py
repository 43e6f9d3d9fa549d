"""What a benchmark is made of: a row of the table, and ratios taken side by side.

Absolute times on a shared machine are noise. What is compared is run in turns within one process, and a ratio is the
median over the turns of the ratio within a turn.
"""

from __future__ import annotations

import ctypes
import statistics
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

CHECKOUT = Path(__file__).parents[1]
"""Where processes of the benchmark's own begin, so that they find its modules."""
Sense = Literal["at least", "at most"]


@dataclass(frozen=True)
class Target:
    """A bound on a row's value."""

    sense: Sense
    bound: float

    def met(self, value: float) -> bool:
        """Whether a value keeps it."""
        return value >= self.bound if self.sense == "at least" else value <= self.bound

    def __str__(self) -> str:
        return f"{'>=' if self.sense == 'at least' else '<='} {self.bound:g}"


@dataclass(frozen=True)
class Row:
    """One line of the table: a value, its target, and what it was computed from."""

    number: int
    """Of the target in docs/performance.md."""
    what: str
    value: float
    """What the target speaks of: a ratio, a share, or megabytes."""
    unit: str
    target: Target | None = None
    figures: Mapping[str, Any] = field(default_factory=dict)
    """Measured numbers behind the value, by name with their unit; JSON's types."""
    missing: str = ""
    """Why there is no value: a library or a device that is not here."""

    @property
    def met(self) -> bool | None:
        """Whether the target is met; None where there is no target or no value."""
        return None if self.target is None or self.missing else self.target.met(self.value)


def not_measured(number: int, what: str, target: Target | None, missing: str) -> Row:
    """A row that says why it is empty."""
    return Row(number, what, 0.0, "", target, missing=missing)


@dataclass(frozen=True)
class Turns:
    """Seconds of each contender in each turn."""

    seconds: Mapping[str, list[float]]

    def median(self, name: str) -> float:
        """Median seconds of a contender."""
        return statistics.median(self.seconds[name])

    def ratio(self, over: str, under: str) -> float:
        """Median over the turns of seconds[over] / seconds[under]."""
        pairs = zip(self.seconds[over], self.seconds[under], strict=True)
        return statistics.median(a / b for a, b in pairs)


def in_turns(
    contenders: Mapping[str, Callable[[], Any]],
    *,
    turns: int = 5,
    clock: Callable[[], float] = time.perf_counter,
    settle: Callable[[], Any] = lambda: None,
    before: Callable[[str], Any] = lambda name: None,
    warm_up: Mapping[str, Callable[[], Any]] | None = None,
) -> Turns:
    """Run each contender once unmeasured, then all of them in turns, every other turn in reverse.

    Args:
        clock: `time.process_time` where everything happens in this process on few cores, which other work on the
            machine disturbs less.
        settle: called before each reading of the clock: `torch.cuda.synchronize` on a GPU.
        before: called unmeasured with the name of the contender whose run is next.
        warm_up: what is run unmeasured in the contenders' place, where they take long.
    """
    for name, run in (warm_up or contenders).items():
        before(name)
        run()
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(turns):
        for name in list(contenders)[:: -1 if turn % 2 else 1]:
            before(name)
            settle()
            start = clock()
            contenders[name]()
            settle()
            seconds[name].append(clock() - start)
    return Turns(seconds)


MEGABYTE = 1e6


def extra_memory(run: Callable[[], Any], device: str) -> float:
    """Megabytes that a run holds at its highest, beyond what was held before it.

    On a GPU torch's allocator tells. On a CPU it is resident memory, which Linux tells, so everything counts that the
    process touches; what malloc keeps from before is given back first.
    """
    if device == "cuda":
        import torch

        torch.cuda.synchronize()
    else:
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    before = held(device)
    forget_peak(device)
    run()
    return (peak(device) - before) / MEGABYTE


def held(device: str) -> float:
    """Bytes held now."""
    if device == "cuda":
        import torch

        return torch.cuda.memory_allocated()
    return _status("VmRSS")


def peak(device: str) -> float:
    """Bytes held at the highest since `forget_peak`."""
    if device == "cuda":
        import torch

        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated()
    return _status("VmHWM")


def forget_peak(device: str) -> None:
    """Let the highest start anew. On a CPU the kernel keeps it, so nothing is too short to be seen (Linux)."""
    if device == "cuda":
        import torch

        torch.cuda.reset_peak_memory_stats()
    else:
        Path("/proc/self/clear_refs").write_text("5")


def _status(name: str) -> float:
    """A number of bytes that Linux tells of this process."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name):
            return 1024 * float(line.split()[1])
    raise OSError(f"/proc/self/status has no {name}")
