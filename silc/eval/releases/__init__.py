"""Releases whose label maps must be decoded before they can be scored; `silc data prepare` does this.

A release is read where it was unpacked. New files lie where its authors' or evaluators' scripts put them, so that
`silc eval` and those scripts find them. No existing file is overwritten.
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
    """A data set that `silc data prepare` makes from a release."""

    what: str
    plan: Callable[[Path, Path, Sequence[str]], list[Made]]
    """Function (folder of the unpacked release, folder for data, parts) that lists the files to make."""
    images: int
    """Published number of images in the part that is scored."""
    parts: Sequence[str] = ("val",)
    """Parts that can be prepared: the part that is scored, then the part that probes learn from."""


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
    """Numbers of files after a release was prepared."""

    made: int
    kept: int
    """Files that existed before and are unchanged."""


def prepare(files: Sequence[Made], show: bool = False) -> Prepared:
    """Make the missing files; existing files are kept. A new folder appears only when it is complete.

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
