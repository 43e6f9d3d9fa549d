"""The table of kinds of run: all that commands know of one. Imports no torch.

A trained head is added by a row in `KINDS` and a package of its own, in a folder `heads` here.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Kind:
    """A kind of run. What it has is named as `module:name`, imported when it is used, and empty where there is none."""

    settings: str
    """The dataclass of its configuration, in a module that imports no torch: `Config`, or a `DownstreamConfig`."""
    train: str = ""
    """Trains a configuration to its end and gives the run's directory: what `silc train` calls."""
    load: str = ""
    """Gives a finished run's model, as `Loaded`, for (run, device=, name=): what `silc eval` and `silc.load` take."""
    idle: str = ""
    """`Idle` rules: what is told of settings that are given and not read."""
    command: str = "silc train"
    """What goes on with such a run."""
    export: str = ""
    """Writes such a run for others, for (run, out, formats, license=, datasets=): what `silc export` calls."""

    def find(self, what: str) -> Any:
        """What `settings`, `train`, `load`, `idle` or `export` names; None where there is none."""
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
    """The kinds that have something, in order: those one can `train`, or `load`."""
    return [name for name, kind in KINDS.items() if getattr(kind, what)]


def heads() -> dict[str, type]:
    """The settings of what `silc train NAME` trains on a model there is, by that name; pretraining's are recipes."""
    return {name: KINDS[name].find("settings") for name in those_that("train") if name != "pretrain"}
