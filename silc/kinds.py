"""The table of kinds of run: all that the commands know about each kind. Imports no torch.

To add a trained head, add a row to `KINDS` and a package to the folder `heads` here.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Kind:
    """A kind of run. Its parts are named as `module:name`, imported when used, and empty if there is none."""

    settings: str
    """The dataclass of its configuration, in a module that imports no torch: `Config`, or a `DownstreamConfig`."""
    train: str = ""
    """Trains a configuration to its end and returns the run's directory; called by `silc train`."""
    load: str = ""
    """Loads a finished run as `Loaded`; `silc eval` and `silc.load` call it with (run, device=, name=)."""
    idle: str = ""
    """`Idle` rules: which settings are reported as given and not read."""
    command: str = "silc train"
    """The command that resumes such a run."""
    export: str = ""
    """Exports such a run; `silc export` calls it with (run, out, formats, license=, datasets=)."""

    def find(self, what: str) -> Any:
        """Import and return what `settings`, `train`, `load`, `idle` or `export` names; None if it is empty."""
        module, _, name = getattr(self, what).partition(":")
        return getattr(importlib.import_module(module), name) if module else None


KINDS = {
    "pretrain": Kind("silc.config:Config", "silc.pretraining.run:train", "silc.loading:load_run", "silc.given:RUN"),
    "catseg": Kind(
        "silc.heads.catseg.config:CatSegConfig",
        "silc.heads.catseg.run:train",
        "silc.heads.catseg.run:load",
        "silc.heads.catseg.config:IDLE",
        export="silc.heads.catseg.export:export",
    ),
    "tcl": Kind(
        "silc.heads.tcl.config:TclConfig",
        "silc.heads.tcl.run:train",
        "silc.heads.tcl.run:load",
        "silc.heads.tcl.config:IDLE",
    ),
    "pacl": Kind(
        "silc.heads.pacl.config:PaclConfig",
        "silc.heads.pacl.run:train",
        "silc.heads.pacl.run:load",
        "silc.heads.pacl.config:IDLE",
    ),
    "detect": Kind(
        "silc.heads.detect.config:DetectConfig",
        "silc.heads.detect.run:train",
        "silc.heads.detect.run:load",
        "silc.heads.detect.config:IDLE",
        export="silc.heads.detect.export:export",
    ),
    "decoder": Kind(
        "silc.heads.decoder.config:DecoderConfig",
        "silc.heads.decoder.run:train",
        "silc.heads.decoder.run:load",
        "silc.heads.decoder.config:IDLE",
        export="silc.heads.decoder.export:export",
    ),
    "probe": Kind("silc.probes.config:ProbeConfig", command="silc probe"),
}


def those_that(what: str) -> list[str]:
    """The kinds whose field `what` is not empty, in order: those one can `train`, or `load`."""
    return [name for name, kind in KINDS.items() if getattr(kind, what)]


def heads() -> dict[str, type]:
    """The settings of each head that `silc train NAME` trains on a model, by that name; pretraining has recipes
    instead."""
    return {name: KINDS[name].find("settings") for name in those_that("train") if name != "pretrain"}
