"""Runs of heads to serve, each trained for two steps on squares."""

from __future__ import annotations

from pathlib import Path

import silc
from tests.heads.decoder.conftest import SMALL as SMALL_DECODER
from tests.heads.decoder.conftest import write_sets
from tests.heads.detect.conftest import SMALL as SMALL_DETECTOR
from tests.heads.detect.conftest import write_set


def detector(folder: Path, towers: Path) -> Path:
    """A run that finds boxes."""
    settings = SMALL_DETECTOR | {"data.train": str(write_set(folder / "coco", "train2017", range(1, 5)))}
    return silc.train("detect", out=folder / "run", init=str(towers), **settings | {"train.duration": "2 steps"})


def writer(folder: Path, towers: Path) -> Path:
    """A run that writes captions and answers."""
    data = write_sets(folder)
    settings = SMALL_DECODER | {"data.train": f"caption:{data / 'coco'},vqa:{data / 'vqa' / 'squares'}"}
    return silc.train("decoder", out=folder / "run", init=str(towers), **settings | {"train.duration": "2 steps"})
