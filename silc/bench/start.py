"""How long the command line takes before it does anything."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
from typing import TYPE_CHECKING

from silc.bench.measure import Row, Target

if TYPE_CHECKING:
    from silc.bench.suite import BenchConfig

TURNS = 5


def rows(config: BenchConfig) -> list[Row]:
    """Row 13: CPU seconds of `silc --help` in a process of its own, median of five after one that fills the cache."""
    seconds = [_cpu_seconds() for _ in range(1 + TURNS)][1:]
    value = statistics.median(seconds)
    return [Row(13, "silc --help, CPU time", value, "s", Target("at most", 0.5), {"seconds": seconds})]


def _cpu_seconds() -> float:
    before = os.times()
    subprocess.run([sys.executable, "-m", "silc", "--help"], check=True, stdout=subprocess.DEVNULL)
    after = os.times()
    return after.children_user - before.children_user + after.children_system - before.children_system
