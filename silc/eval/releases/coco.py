"""COCO's stuffthingmaps in the conversions that others read: mmsegmentation's 171 classes, GroupViT's 80 things.

`silc eval` reads stuffthingmaps directly, and converted maps too. The conversions are for programs that need them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from silc.errors import BadInput
from silc.eval.files import images_in
from silc.eval.layouts.coco_maps import STUFF, THINGS, read_objects, read_stuff
from silc.eval.releases.made import Made, copies, label_map

if TYPE_CHECKING:
    from numpy.typing import NDArray

FOLDER = "coco_stuff164k"


class Conversion(NamedTuple):
    """The ending of converted maps' names, and the function that makes a map."""

    ending: str
    read: Callable[[Path], NDArray[Any]]


STUFFS, OBJECTS = Conversion(STUFF, read_stuff), Conversion(THINGS, read_objects)


def plan(conversion: Conversion, root: Path, out: Path, parts: Sequence[str]) -> list[Made]:
    """The converted maps of some parts, and the photographs.

    Raises:
        BadInput: no photographs, or one without its map.
    """
    files = []
    for part in parts:
        folder = f"{part}2017"
        images, labels = (root / FOLDER / kind / folder for kind in ("images", "annotations"))
        found = images_in(images)
        if not found:
            raise BadInput(f"{images} has no photographs; unpack {folder}.zip there")
        for image in found:
            raw = labels / f"{image.stem}.png"
            if not raw.is_file():
                raise BadInput(f"{image} has no stuffthingmap; add {raw} from stuffthingmaps_trainval2017.zip")
            name = f"{image.stem}{conversion.ending}.png"
            to = out / FOLDER / "annotations" / folder / name
            files.append(label_map(to, partial(conversion.read, raw), part))
        files += copies(found, out / FOLDER / "images" / folder)
    return files
