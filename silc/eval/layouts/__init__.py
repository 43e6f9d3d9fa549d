"""Every data set there is under a root: in its authors' layout, or a folder of one's own, by the kind of data.

    <root>/classification/<set>/classes.txt  {train,test}/<class folder>/*   folders called as classes: `order_of`
    <root>/retrieval/<set>/captions.json     [{"image": "images/x.jpg", "captions": ["...", ...]}, ...], or a table
    <root>/segmentation/<set>/classes.txt    images/<id>.*  labels/<id>.png  line of classes.txt (see IGNORED)
                                             train/images   train/labels    the same, to learn from

The first two may also be CLIP_benchmark's WebDataset: `classnames.txt`, `{train,test}/{nshards.txt,0.tar,...}`.
A data set is added by an entry in `official` of its kind's file. A kind (boxes, questions) is added by a file here, a
dataclass in `datasets.py` and a row in `KINDS`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from silc.errors import BadInput
from silc.eval.layouts import captions, classes, label_maps

if TYPE_CHECKING:
    from silc.eval.datasets import Source


class Kind(NamedTuple):
    """Where a kind of data set is looked for."""

    official: Callable[[Path], list[Source[Any]]]
    """In their authors' layouts under a root, found or not."""
    folder: Callable[[Path], Source[Any]]
    """In a folder of one's own, `<root>/<kind>/<set>`."""


KINDS = {
    "classification": Kind(classes.official, classes.folder),
    "retrieval": Kind(captions.official, captions.folder),
    "segmentation": Kind(label_maps.official, label_maps.folder),
}


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
            f"{root} holds no data set; needed are official layouts (`silc eval --list --root {root}`) or folders "
            f"like {root}/classification/<set>, retrieval/<set>, ..."
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
