"""Experiment trackers that are told what metrics.jsonl holds: W&B and trackio, which share one interface."""

from __future__ import annotations

import hashlib
import math
from typing import TYPE_CHECKING, Any, Literal

from silc.extras import install
from silc.types import BadInput

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

PROJECT = "silc"
Name = Literal["wandb", "trackio"]


class Tracker:
    """One run in one tracker. A resumed run goes on in the same one.

    Args:
        name: which tracker.
        out: the run's directory; its name is the run's, its whole path makes the id.
        config: plain values, shown beside the curves.

    Raises:
        BadInput: the library is not installed.
    """

    def __init__(self, name: Name, out: Path, config: Mapping[str, Any]) -> None:
        self.library = _library(name)
        if name == "wandb":
            where = {"dir": str(out), "id": hashlib.sha256(str(out.resolve()).encode()).hexdigest()[:16]}
        else:
            where = {}  # trackio keeps a folder of its own and knows a run by its name
        self.library.init(project=PROJECT, name=out.name, config=dict(config), resume="allow", **where)

    def record(self, record: Mapping[str, Any]) -> None:
        """Pass on the finite numbers of one record."""
        numbers = {k: v for k, v in record.items() if isinstance(v, int | float) and math.isfinite(v)}
        self.library.log({k: v for k, v in numbers.items() if k != "step"}, step=record["step"])

    def finish(self) -> None:
        """Send what is left."""
        self.library.finish()


def _library(name: Name) -> Any:
    try:
        if name == "wandb":
            import wandb as library
        else:
            import trackio as library
    except ImportError as error:
        raise BadInput(f"train.trackers names {name}, which is not installed: {install('log')}") from error
    return library
