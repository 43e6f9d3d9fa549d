"""Read matrices of numbers in MATLAB's files of version 5, the form of Pascal Context's release; nothing else is read.

A file is a 128-byte header and elements. An element is a tag (type and number of bytes) and these bytes, padded to a
multiple of 8; up to 4 bytes stand in the tag itself. A compressed element holds another element. A matrix holds flags,
sizes, a name and its numbers by columns, in the narrowest type that fits (MathWorks, "MAT-File Format", version 5).
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from silc.errors import BadInput
from silc.regular import regular

if TYPE_CHECKING:
    from numpy.typing import NDArray

MATRIX, COMPRESSED = 14, 15
TYPES = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}


def read_matrix(path: Path, name: str) -> NDArray[Any]:
    """The matrix with a name in a file.

    Raises:
        BadInput: the file cannot be read, or has no such matrix.
    """
    try:
        content = regular(path).read_bytes()
        order = {b"IM": "<", b"MI": ">"}[content[126:128]]
        for kind, data in _elements(content[128:], order):
            if kind == COMPRESSED:
                kind, data = next(_elements(zlib.decompress(data), order))
            if kind == MATRIX:
                (_, _), (_, sizes), (_, called), (numbers_as, numbers) = [*_elements(data, order)][:4]
                if called.decode("ascii") == name:
                    shape = np.frombuffer(sizes, f"{order}i4")
                    return np.frombuffer(numbers, f"{order}{TYPES[numbers_as]}").reshape(shape, order="F")
    except (OSError, KeyError, ValueError, StopIteration, struct.error, zlib.error) as error:
        raise BadInput(
            f"cannot read {path}: it is no MATLAB file of version 5 ({error!r}); load it in MATLAB and save it with -v7"
        ) from error
    raise BadInput(f"{path} has no matrix {name}")


def _elements(content: bytes, order: str) -> Iterator[tuple[int, bytes]]:
    """Type and bytes of each element."""
    at = 0
    while at + 8 <= len(content):
        kind, size = struct.unpack_from(f"{order}II", content, at)
        if kind >> 16:  # a small element: its size is in the upper half of the type
            yield kind & 0xFFFF, content[at + 4 : at + 4 + (kind >> 16)]
            at += 8
            continue
        yield kind, content[at + 8 : at + 8 + size]
        at += 8 + size + (0 if kind == COMPRESSED else -size % 8)
