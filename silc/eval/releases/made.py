"""Files that are made from a release, and functions that write them."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from PIL import Image

from silc.errors import BadInput

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray


class Made(NamedTuple):
    """A file to make, and the function that writes it to a path, which may have another name."""

    path: Path
    write: Callable[[Path], None]
    labels: str = ""
    """For a label map: the part of its photograph."""


def label_map(path: Path, read: Callable[[], NDArray[Any]], part: str) -> Made:
    """A PNG of 8 or 16 bits with the label map [H, W] from `read`, for a photograph of a part."""
    return Made(path, lambda to: Image.fromarray(read()).save(to, "PNG"), part)


def copies(images: Iterable[Path], folder: Path) -> list[Made]:
    """Copies of images in another folder, except of those that are already in it.

    Raises:
        BadInput: an image is missing.
    """
    found = []
    for image in images:
        if not image.is_file():
            raise BadInput(f"the image {image} is missing; unpack the release's images beside its labels")
        if image.parent.resolve() != folder.resolve():
            found.append(Made(folder / image.name, partial(_copy, image)))
    return found


def _copy(image: Path, to: Path) -> None:
    shutil.copyfile(image, to)
