"""Releases whose label maps must be decoded before they can be scored, and how that is done: `silc data prepare`.

A release is read where it was unpacked, and what is made lies where its authors' or evaluators' scripts put it, so that
`silc eval` and their own code find it. Nothing that is there is written over.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from silc.durable import whole
from silc.eval.releases import ade, coco, context
from silc.eval.releases.made import Made
from silc.terminal import track

if TYPE_CHECKING:
    from collections.abc import Mapping


class Release(NamedTuple):
    """A set that is prepared."""

    what: str
    plan: Callable[[Path, Path, Sequence[str]], list[Made]]
    """The files to make: of the folder the release was unpacked in, the folder for data, and the parts asked for."""
    images: int
    """Of the part that is scored, as published."""
    parts: Sequence[str] = ("val",)
    """What can be prepared: the part that is scored, then that which probes learn from."""


RELEASES: Mapping[str, Release] = {
    "ade847": Release("A-847, of the full ADE20K (2021_17_01)", ade.plan, 2000),
    "pc459": Release("PC-459, of Pascal Context's trainval/*.mat", context.plan_459, 5105),
    "pc59": Release(
        "PC-59 and PC-60, of trainval_merged.json or trainval/*.mat", context.plan_59, 5105, ("val", "train")
    ),
    "coco-object": Release(
        "COCO-Object, of stuffthingmaps (which silc eval reads as they are)",
        partial(coco.plan, coco.OBJECTS),
        5000,
        ("val", "train"),
    ),
    "coco-stuff": Release(
        "COCO-Stuff in 171 classes, of stuffthingmaps (which silc eval reads as they are)",
        partial(coco.plan, coco.STUFFS),
        5000,
        ("val", "train"),
    ),
}


class Prepared(NamedTuple):
    """What became of a release."""

    made: int
    kept: int
    """Files that were there, and are as they were."""


def prepare(files: Sequence[Made], show: bool = False) -> Prepared:
    """Make files; those that are there are kept. A folder that is not there yet appears when it is complete.

    Raises:
        BadInput: a file of the release cannot be read; nothing incomplete is left.
    """
    missing = [file for file in files if not file.path.exists()]
    with ExitStack() as stack:
        folders = {
            folder: stack.enter_context(whole(folder))
            for folder in dict.fromkeys(file.path.parent for file in missing)
            if not folder.is_dir()
        }
        for beside in folders.values():
            beside.mkdir()
        for file in track(missing, "prepare", show):
            if file.path.parent in folders:
                file.write(folders[file.path.parent] / file.path.name)
            else:
                with whole(file.path) as incomplete:
                    file.write(incomplete)
    return Prepared(len(missing), len(files) - len(missing))
