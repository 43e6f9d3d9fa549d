"""Run a command of silc in this process, as part of a study."""

from __future__ import annotations

import functools
from pathlib import Path

from silc.cli import main as silc


def run(*args: object) -> None:
    """Run `silc ARGS`.

    Raises:
        SystemExit: the command failed.
    """
    if silc([str(arg) for arg in args]):
        raise SystemExit(f"silc {' '.join(map(str, args))} failed")


@functools.cache  # several heads learn from the same towers
def finish(folder: Path) -> None:
    """Train the run in a folder to its end, if it was cut off: a study of unfinished towers says nothing."""
    run("train", folder / "config.yaml", "--resume", "auto")
