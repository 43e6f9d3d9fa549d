"""How long the default tests take."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from .outcome import Row

LIMIT = 8 * 60
"""Seconds of `make test` on two slow cores, set-up apart."""


def budget(folder: Path, short: bool) -> Iterator[Row]:
    """The default tests pass within their budget; by the clock, so nothing else should run beside them."""
    folder.mkdir(parents=True, exist_ok=True)
    # This Python's packages, as they are.
    command = ["make", "--old-file=setup", "test", f"BIN={Path(sys.executable).parent}"]
    start = time.monotonic()
    with (folder / "said.txt").open("w") as file:
        done = subprocess.run(command, stdout=file, stderr=subprocess.STDOUT, check=False)
    seconds = time.monotonic() - start
    closing = (folder / "said.txt").read_text().strip().splitlines()[-1].strip("= ")
    figure = f"{seconds / 60:.1f} min; {closing}"
    yield Row(f"default tests within {LIMIT // 60} min", 1, int(done.returncode == 0 and seconds <= LIMIT), figure)
