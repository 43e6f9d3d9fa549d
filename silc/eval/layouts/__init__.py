"""Find the data sets under a root: where their authors' archives unpack to, or in a user's own folder.

`silc eval --list` shows each place, `own_sets.txt` the layout of own folders. To add a data set, add an entry in
`official` of its kind's file. To add a kind of data, add a file here and a row in `KINDS`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from silc.errors import BadInput
from silc.eval.layouts import boxes, captions, classes, label_maps, questions

if TYPE_CHECKING:
    from silc.eval.datasets import Source


KINDS = {
    "classification": classes,
    "retrieval": captions,
    "segmentation": label_maps,
    "detection": boxes,
    "vqa": questions,
}
"""Kinds of data sets, and the module of each: `official(root)` gives the sources in their authors' layouts, found or
not; `folder(path)` gives the source of a user's own folder, <root>/<kind>/<set>."""


def discover(root: str | Path) -> list[Source[Any]]:
    """The data sets found under a root folder: the official layouts, then folders by kind and name.

    Raises:
        BadInput: no root, nothing in it, or two data sets of one kind and name.
    """
    if not root:
        raise BadInput(
            "no data to evaluate on: give --root (eval.root in a recipe), a folder with data sets; "
            "`silc eval --list` shows the layouts"
        )
    found = [source for source in everything(Path(root)) if all(path.exists() for path in source.needs)]
    if not found:
        raise BadInput(
            f"{root} holds no data set; it needs official layouts (`silc eval --list --root {root}`) or folders "
            f"like {root}/classification/<set>, retrieval/<set>, segmentation/<set>, detection/<set>"
        )
    seen: dict[tuple[str, str], Source[Any]] = {}
    for source in found:
        other = seen.setdefault((source.kind, source.name), source)
        if other is not source:
            raise BadInput(f"{other.needs[0]} and {source.needs[0]} are both called {source.name}; rename the folder")
    return found


def everything(root: Path) -> list[Source[Any]]:
    """Every official data set, found under the root or not, and the folders that are there, by kind and name."""
    official = [source for kind in KINDS.values() for source in kind.official(root)]
    return official + [kind.folder(path) for name, kind in KINDS.items() for path in _folders(root / name)]


def _folders(place: Path) -> list[Path]:
    found = sorted(place.iterdir()) if place.is_dir() else []
    return [path for path in found if path.is_dir() and not path.name.startswith(".")]
