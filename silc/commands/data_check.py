"""`silc data check`: a look at pairs before training on them."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Annotated

import tyro

from silc.commands import flags
from silc.settings import NATURAL, Range, Settings
from silc.terminal import announce, say


@dataclass(frozen=True)
class CheckCommand(Settings):
    """Look at data before training on it: report.html with pictures, check.json, and a list of broken samples."""

    data: tyro.conf.Positional[str]
    """What data.train takes: tar shards ('/data/{00000..00331}.tar', 'https://...', 's3://...'), or a folder with a
    table of captions."""
    image_root: str = ""
    """Folder of a table's images, as data.image_root; empty: the table's folder."""
    subset: str = ""
    """Check only the samples of a subset, as with data.subset."""
    out: str = "data-check"
    """Folder for the results."""
    samples: Annotated[int, NATURAL] = 0
    """Check this many samples, evenly spread; 0: all."""
    workers: Annotated[int, Range(least=0, most=1024)] = min(8, os.cpu_count() or 1)
    """Processes that read; 0 reads in this one."""
    pictures: Annotated[int, Range(least=0, most=10_000)] = 24
    """Number of pictures on the page."""


def main(args: list[str]) -> int:
    """Look at the pairs and write what was found."""
    command = flags.read(CheckCommand, args, "silc data check")
    from silc.data import check
    from silc.data.config import DataConfig
    from silc.data.remote import without_secrets
    from silc.data.sources import open_pairs

    out, title = check.place_of(command.out), without_secrets(command.data)
    announce(f"data check: {title} into {out}")
    config = DataConfig(train=command.data, image_root=command.image_root, subset=command.subset)
    pairs = open_pairs(config, seed=0, show=True)
    limits = {"limit": command.samples, "workers": command.workers, "num_pictures": command.pictures}
    say(check.run(pairs, out, title=title, **limits))
    return 0
