"""Read the files of evaluation sets: pixels, labels and lines. An unreadable file gives one clear line of error."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from silc.errors import BadInput
from silc.images import READ, UNREAD, BadImage, decode_rgb, is_image_name
from silc.regular import regular

if TYPE_CHECKING:
    from numpy.typing import NDArray

STRETCHED = {"L;2": 85, "L;4": 17}
"""Factors by which Pillow multiplies grey values of 2 and 4 bits."""


def read_image(path: Path) -> Image.Image:
    """The RGB image in a file.

    Raises:
        BadInput: it cannot be read or decoded.
    """
    try:
        return decode_rgb(regular(path).read_bytes())
    except (OSError, BadImage) as error:
        raise BadInput(f"cannot read the image {path}: {error}") from error


def read_label(path: Path) -> NDArray[Any]:
    """Label array [H, W] of a PNG file; palette indices and greys of 1 to 16 bits are kept as they are.

    A `.tif`, which detectron2's sets of many classes have, is read if it is not compressed.

    Raises:
        BadInput: it cannot be read or decoded.
    """
    tiff = path.suffix.lower() in (".tif", ".tiff")
    try:
        with Image.open(regular(path), formats=["TIFF" if tiff else "PNG"]) as image:
            if tiff and {tile[0] for tile in image.tile} != {"raw"}:
                raise BadInput(f"cannot read the label {path}: its TIFF is compressed; convert it to a PNG of 16 bits")
            stretched = STRETCHED.get(str(image.tile[0].args), 1) if image.tile else 1
            return np.array(image) // stretched if stretched > 1 else np.array(image)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise BadInput(f"cannot read the label {path}: {error}") from error


def text_of(file: Path) -> str:
    """A UTF-8 file's text, without a byte order mark.

    Raises:
        BadInput: the file is missing or unreadable.
    """
    try:
        return regular(file).read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise BadInput(f"{file} is missing") from None
    except UnicodeDecodeError as error:
        raise BadInput(f"cannot read {file}: {error}; save it as UTF-8") from error
    except OSError as error:
        raise BadInput(f"cannot read {file}: {error.strerror}; check the path and its permissions") from error


def lines_of(file: Path, what: str = "class name") -> list[str]:
    """A file's lines, stripped; empty ones are left out. `what` names the content of a line for the error message.

    Raises:
        BadInput: the file is missing or empty.
    """
    lines = lines_in(text_of(file))
    if not lines:
        raise BadInput(f"{file} is empty; write one {what} per line")
    return lines


def lines_in(text: str) -> list[str]:
    """The lines of a text, stripped; empty ones and the byte order marks of files put together by `cat` are left out.

    Lines end at LF, CR or both. `str.splitlines` would also end them at form feeds and U+2028, which names may hold.
    """
    lines = (line.removeprefix("\ufeff").strip() for line in re.split(r"\r\n?|\n", text))
    return [line for line in lines if line]


def distinct(names: Sequence[str], where: str) -> Sequence[str]:
    """The names, unchanged, if no two are equal.

    Raises:
        BadInput: a name comes twice.
    """
    if len(set(names)) != len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise BadInput(f"{where} names the class '{twice}' twice; each class needs a name of its own")
    return names


def listing(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise BadInput(f"{folder} is missing")
    return [path for path in folder.iterdir() if not path.name.startswith(".")]


def images_in(folder: Path) -> list[Path]:
    """Image files of a folder, sorted by name; hidden files are left out.

    Raises:
        BadInput: no such folder, or an image of a format that is not read.
    """
    found = sorted(path for path in listing(folder) if is_image_name(path.name))
    for path in found:
        if path.suffix.lower().lstrip(".") in UNREAD:
            raise BadInput(
                f"{path} is of a format that is not read; convert it to one of {', '.join(READ)}, or remove it"
            )
    return found


def images_below(folder: Path) -> list[Path]:
    """Image files in a folder and all below it, of any format, in order; hidden files and folders are left out."""
    found = []
    for place, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith((".", "__MACOSX"))]
        found += [Path(place) / name for name in files if is_image_name(name)]
    return sorted(found)
