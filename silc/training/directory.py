"""The directory of a run of any kind: whether a run may begin or resume there, and from which checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from silc import checkpoint, places
from silc.errors import BadInput
from silc.terminal import complain

if TYPE_CHECKING:
    from silc.distributed import World

CONFIG, CHECKPOINTS, ENVIRONMENT = "config.yaml", "checkpoints", "env.json"
"""Files and folders that it holds."""


def is_run(source: str | Path) -> bool:
    """Whether a directory is a run's, of any kind."""
    return (Path(source) / CONFIG).is_file()


def claim(given: str, resume: str) -> tuple[Path, bool]:
    """The directory of a run that is to begin or resume, and whether it holds a run already; nothing is written.

    Raises:
        BadInput: none is given or it cannot be written, it holds only weights, or a run while `resume` is `never`.
    """
    if not given:
        raise BadInput("no output directory; give --out DIR")
    out = places.folder(given)
    places.folder(out / CHECKPOINTS)
    found = checkpoint.find(out / CHECKPOINTS)
    files = checkpoint.listed(found[0]) if found else []
    if files and "optimizer.safetensors" not in files:
        raise no_run_to_go_on_with(out)
    holds_run = is_run(out)
    if holds_run and resume == "never":
        raise BadInput(f"{out} already holds a run; go on with --resume auto, or give another --out")
    return out, holds_run


def no_run_to_go_on_with(out: Path) -> BadInput:
    """The error for a directory with weights alone and nothing else of a run."""
    return BadInput(
        f"{out} holds a model to start from, not a run to go on with (it has no optimizer state and no position in the "
        f"data); use --init {out} and give another --out"
    )


def newest(out: Path, world: World) -> Path | None:
    """The checkpoint that a run resumes from; None if it was stopped before its first one.

    Raises:
        BadInput: all are damaged.
    """
    intact = None
    if world.is_main:  # one rank looks, so that all resume from the same one
        intact, damaged = checkpoint.newest_intact(out / CHECKPOINTS)
        if intact is None and damaged:
            raise BadInput(
                f"every checkpoint under {out / CHECKPOINTS} is damaged, the newest: {next(iter(damaged.values()))}; "
                "restore one, or start again with another --out"
            )
        for path, complaint in damaged.items():
            complain(f"{complaint.partition(';')[0]}; set aside, going on from {intact}")
            checkpoint.set_aside(path)
    found: Path | None = world.from_main(intact)  # checksums may take longer than a collective in training
    return found


def left_behind(out: Path) -> str:
    """A line for the user: what a run that was stopped at once can resume from."""
    found = checkpoint.find(out / CHECKPOINTS)
    if not found:
        return f"{out} holds no checkpoint yet; `--resume auto` starts it again"
    return f"`--resume auto` goes on from {found[0]}"
