"""COCO's maps of things and stuff: the 171 classes of COCO-Stuff, and the 80 things of COCO-Object with a background.

A stuffthingmap has COCO's 182 ids minus one, and 255 where nothing is labelled. Maps that others convert from it
(`*_labelTrainIds.png` of mmsegmentation, `*_instanceTrainIds.png` of GroupViT) lie beside it under these names.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from silc.errors import BadInput
from silc.eval.files import images_in, read_label

if TYPE_CHECKING:
    from numpy.typing import NDArray

UNUSED_IDS = (11, 25, 28, 29, 44, 65, 67, 68, 70, 82, 90)
"""Those of COCO's 182 ids, counted from 0, that no image has; 171 classes remain."""
NUM_THINGS = 80
"""Number of things, which are the first of the 171 classes."""
STUFF, THINGS = "_labelTrainIds", "_instanceTrainIds"
"""How the names of converted maps end."""


def stuff_pairs(images: Path, labels: Path) -> list[tuple[Path, Path]]:
    """Pairs of an image and its stuffthingmap, or mmsegmentation's converted map if it exists."""
    return _pairs(images, labels, STUFF, "")


def object_pairs(images: Path, labels: Path) -> list[tuple[Path, Path]]:
    """Pairs of an image and GroupViT's converted map or, if there is none, a map from which it can be made."""
    return _pairs(images, labels, THINGS, "", STUFF)


def read_stuff(path: Path) -> NDArray[Any]:
    """Labels [H, W] of the 171 classes, from a stuffthingmap's 182 ids or from a converted map."""
    label = read_label(path)
    return label if path.stem.endswith(STUFF) else np.asarray(_STUFF_OF[_ids(label, path)])


def read_objects(path: Path) -> NDArray[Any]:
    """Labels [H, W] of the background, 0, and things, 1 to 80, from a stuffthingmap or a converted map.

    Stuff is background, and so are unlabelled pixels (255): GroupViT's script makes every id above 90 background, and
    COCO-Object ignores no pixel.
    """
    label = read_label(path)
    if path.stem.endswith(THINGS):
        return label
    classes = label if path.stem.endswith(STUFF) else _STUFF_OF[_ids(label, path)]
    return np.where(classes < NUM_THINGS, classes + 1, 0).astype(np.uint8)


def _pairs(images: Path, labels: Path, *endings: str) -> list[tuple[Path, Path]]:
    """Each image and its label map. Maps end with the first of `endings` that a map of the first image has, if any."""
    found = images_in(images)
    there = (end for end in endings if found and (labels / f"{found[0].stem}{end}.png").is_file())
    ending = next(there, "")
    return [(image, labels / f"{image.stem}{ending}.png") for image in found]


def _ids(label: NDArray[Any], path: Path) -> NDArray[Any]:
    if label.dtype.itemsize > 1 and label.max(initial=0) > 255:
        raise BadInput(f"the label {path} has the value {label.max()}; a stuff-thing map has values from 0 to 255")
    return label


def _table() -> NDArray[np.uint8]:
    used = [number for number in range(182) if number not in UNUSED_IDS]
    table = np.full(256, 255, np.uint8)
    table[used] = np.arange(len(used))
    return table


_STUFF_OF = _table()
