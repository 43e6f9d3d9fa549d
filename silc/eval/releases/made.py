"""Files that are made of a release, and the ways to write one."""

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
    """A file to make, and what writes it: into a path that may have another name."""

    path: Path
    write: Callable[[Path], None]
    labels: str = ""
    """Of a label map, the part that its photograph is of."""


def label_map(path: Path, read: Callable[[], NDArray[Any]], part: str) -> Made:
    """A PNG of 8 or 16 bits of what `read` gives [H, W], of a photograph of a part."""
    return Made(path, lambda to: Image.fromarray(read()).save(to, "PNG"), part)


def copies(images: Iterable[Path], folder: Path) -> list[Made]:
    """Images as they are, in another folder; none where they are in it.

    Raises:
        BadInput: one is missing.
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
