"""How long the command line takes before it does anything, and a run before it trains."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.loader import photographs, write_shard
from benchmarks.measure import CHECKOUT, Row, Target

if TYPE_CHECKING:
    from benchmarks.suite import BenchConfig

TURNS = 3


def rows(config: BenchConfig) -> list[Row]:
    """Rows 13 and 15: CPU seconds of processes of their own, medians of three after one that fills the cache."""
    with tempfile.TemporaryDirectory() as folder:
        shard = write_shard(Path(folder) / "0.tar", photographs(8), 64)
        run = [
            "-m",
            "silc",
            "train",
            "clip-tiny",
            "--device",
            config.device,
            "--batch-size",
            "8",
            "--duration",
            "1 steps",
        ]
        run += [
            "--data.source",
            "shards",
            "--data.train",
            str(shard),
            "--data.workers",
            "0",
            "--data.index-cache",
            "off",
        ]
        seconds = {
            "silc --help": _cpu_seconds(lambda turn: ["-m", "silc", "--help"]),
            "import torch": _cpu_seconds(lambda turn: ["-c", "import torch"]),
            "run": _cpu_seconds(lambda turn: [*run, "--out", f"{folder}/{turn}"]),
        }
    beyond = seconds["run"] - seconds["import torch"]
    what = "a run of one step, clip-tiny, beyond importing torch, CPU time"
    return [
        Row(13, "silc --help, CPU time", seconds["silc --help"], "s", Target("at most", 0.5), {"seconds": seconds}),
        Row(15, what, beyond, "s", Target("at most", 3), {"seconds": seconds}),
    ]


def _cpu_seconds(command: Callable[[int], Sequence[str]]) -> float:
    """Median over the turns but the first; `command` gives Python's arguments of a turn."""
    seconds = []
    for turn in range(1 + TURNS):
        before = os.times()
        subprocess.run([sys.executable, *command(turn)], cwd=CHECKOUT, check=True, stdout=subprocess.DEVNULL)
        after = os.times()
        seconds.append(after.children_user - before.children_user + after.children_system - before.children_system)
    return statistics.median(seconds[1:])
