"""A-847: the classes of the full ADE20K that are in training and validation, as MaskFormer's script decodes them.

A map `ADE_val_*_seg.png` has the number of an object in two colours: red // 10 * 256 + green. `ade_847_ids.txt` has
the numbers of the 847 classes, in order; other numbers become 65535. Photographs with a shorter side above 512 are
shrunk, label maps by the nearest pixel, and all photographs are saved as JPEG again, as for the published scores.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from silc.errors import BadInput
from silc.eval.files import read_image
from silc.eval.layouts.label_maps import ADE_FULL
from silc.eval.releases.made import Made, label_map
from silc.regular import regular

if TYPE_CHECKING:
    from numpy.typing import NDArray

SHORTER = 512
NONE = 65_535
NUM_NUMBERS = 26 * 256
"""Above the highest number that two colours can make."""


def plan(root: Path, out: Path, parts: Sequence[str]) -> list[Made]:
    """The photographs and label maps of the validation part, flat in one folder each.

    Raises:
        BadInput: no photographs, or one without its map.
    """
    place = root / ADE_FULL / "images/ADE/validation"
    images = sorted(place.glob("*/*/ADE_val_*.jpg"), key=lambda path: path.name)
    if not images:
        raise BadInput(f"{place} has no photographs ADE_val_*.jpg two folders below; unpack the full release there")
    files = []
    for image in images:
        colours = image.with_name(f"{image.stem}_seg.png")
        if not colours.is_file():
            raise BadInput(f"{image} has no map of its objects; add {colours}")
        to = out / ADE_FULL
        files.append(Made(to / "images_detectron2/validation" / image.name, partial(_photograph, image)))
        labels = to / "annotations_detectron2/validation" / f"{image.stem}.png"
        files.append(label_map(labels, partial(read_map, colours), "val"))
    return files


def read_map(colours: Path) -> NDArray[np.uint16]:
    """Labels [H, W] of the 847 classes, or 65535, from a map of colours, at the size of the saved photograph.

    Raises:
        BadInput: the map cannot be read, or has no colours.
    """
    try:
        with Image.open(regular(colours), formats=["PNG"]) as image:
            pixels = np.asarray(image)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise BadInput(f"cannot read the map {colours}: {error}") from error
    if pixels.ndim != 3:
        raise BadInput(f"{colours} has no colours; a map of objects has them in red and green")
    objects = pixels[..., 0].astype(np.int64) // 10 * 256 + pixels[..., 1]
    height, width = objects.shape
    new = smaller(width, height)
    if new != (width, height):
        # cv2's nearest pixel: the position is rounded down, not taken at the pixel's centre.
        columns, rows = (np.arange(to) * of // to for to, of in zip(new, (width, height), strict=True))
        objects = objects[rows[:, None], columns]
    return np.asarray(_classes()[objects])


def smaller(width: int, height: int) -> tuple[int, int]:
    """(width, height) with a shorter side of at most 512.

    >>> smaller(2048, 1024), smaller(640, 480)
    ((1024, 512), (640, 480))
    """
    if min(width, height) <= SHORTER:
        return width, height
    if width >= height:
        return round(width / height * SHORTER), SHORTER
    return SHORTER, round(height / width * SHORTER)


@cache
def ids() -> list[int]:
    """The number of each class in the release."""
    return list(map(int, Path(__file__).with_name("ade_847_ids.txt").read_text(encoding="utf-8").split()))


@cache
def _classes() -> NDArray[np.uint16]:
    table = np.full(NUM_NUMBERS, NONE, np.uint16)
    table[ids()] = np.arange(len(ids()))
    return table


def _photograph(image: Path, to: Path) -> None:
    from silc.preprocess import resample

    photograph = read_image(image)
    new = smaller(*photograph.size)
    if new != photograph.size:
        photograph = Image.fromarray(resample(photograph, *new, "cv2_bilinear").permute(1, 2, 0).numpy())
    photograph.save(to, "JPEG")
