"""A folder of images with a table of captions (see `tables`).

All rows of one image form one pair with all their captions. Paths are relative to the table's folder, or to
`image_root`; absolute paths must be inside it. An image outside (by `..`, an absolute path or a link) is a broken
sample and is not read.
"""

from __future__ import annotations

import copy
import hashlib
import json
import os
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from silc.batch import Broken
from silc.data.captions import NoCaption, Unread, usable
from silc.data.pairs import BadSample, Pair, Pairs, spread_captions
from silc.data.tables import Rows, read_rows
from silc.data.tar import MAX_MEMBER_BYTES
from silc.errors import BadInput
from silc.images import MAX_PIXELS, BadImage, decode_pixels

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from silc.images import Suffices

BLOCK = 1000
"""Images per block. A folder has no shards, so each block is used as a shard would be."""


class Entry(NamedTuple):
    """One image of the table: its file's bytes and its captions."""

    name: str
    captions: tuple[str, ...]
    image: bytes
    fields: Mapping[str, Any] | None = None
    """Other columns of its row, if they were kept."""


class FolderPairs(Pairs):
    """Pairs of a table of captions beside its images."""

    def __init__(
        self,
        table: Path,
        *,
        rows: Rows | None = None,
        image_root: Path | None = None,
        max_pixels: int = MAX_PIXELS,
        turned: bool = False,
    ) -> None:
        """
        Args:
            rows: the table's rows, if `read_rows` cannot read the table or more than its captions is needed.
            image_root: the folder of the images; None: the table's folder.

        Raises:
            BadInput: the table cannot be read, or has no column of images or of captions; `image_root` is no folder.
        """
        if image_root is not None and not os.path.isdir(image_root):
            raise BadInput(f"data.image_root {image_root} is no folder; name the folder of the table's images")
        self.table = table
        self._decode = partial(decode_pixels, max_pixels=max_pixels, turned=turned)
        rows = rows or read_rows(table)
        # One string and its line ends, not a list of objects: forked workers share the memory without a copy.
        lines = [json.dumps(row, default=_unread).encode() for row in rows.captions.items()]
        self._lines = b"".join(lines)
        self._ends = np.cumsum([len(line) for line in lines], dtype=np.int64)
        if not len(lines):
            raise BadInput(f"{table} has no row with an image and its caption; add at least one")
        starts = np.arange(0, len(lines), BLOCK)
        self.blocks = np.minimum(len(lines) - starts, BLOCK).astype(np.int64)
        self.fingerprint = hashlib.sha256(self._lines).hexdigest()
        self.contents = {"rows": rows.num}
        self._fields = rows.fields
        self._root = Path(os.path.realpath(image_root or table.parent))

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, index: int) -> Pair:
        name, captions, image, _ = self.entry(index)
        try:
            return Pair(name, self._decode(image), captions)
        except BadImage as error:
            raise self._bad(error.cause, name, str(error)) from error

    def entry(self, index: int) -> Entry:
        """The image's bytes and its captions, not decoded.

        Raises:
            BadSample: the image cannot be read, or there is no usable caption.
        """
        name, found = self._row(index)
        captions = self._usable(name, found)
        return Entry(name, captions, self._read(name), self._fields.get(name))

    def where(self, index: int) -> str:
        """The image's name and the table, for messages."""
        return f"{self._row(index)[0]!r} of {self.table}"

    def reduced(self, suffices: Suffices) -> FolderPairs:
        """The same pairs; JPEGs are decoded at the smallest scale that `suffices` accepts."""
        pairs = copy.copy(self)
        pairs._decode = partial(self._decode, suffices=suffices)
        return pairs

    def captions(self, limit: int) -> Iterator[str]:
        """At most `limit` captions of images at equal distances, equally many per image. Deterministic."""
        return spread_captions(len(self), limit, lambda index: self._usable(*self._row(index)))

    def _row(self, index: int) -> tuple[str, list[Any]]:
        if not 0 <= index < len(self):
            raise IndexError(index)
        start = int(self._ends[index - 1]) if index else 0
        name, captions = json.loads(self._lines[start : int(self._ends[index])])
        return name, captions

    def _usable(self, name: str, found: list[Any]) -> tuple[str, ...]:
        try:
            return usable(
                [Unread(each[UNREAD]) if isinstance(each, dict) and UNREAD in each else each for each in found]
            )
        except NoCaption as error:
            raise self._bad(error.cause, name, str(error)) from error

    def _read(self, name: str) -> bytes:
        """The bytes of an image inside the folder; files outside are never opened."""
        try:
            path = Path(os.path.realpath(self._root / name))
            if not path.is_relative_to(self._root):
                raise self._bad("unsafe_path", name, f"lies outside {self._root} (data.image_root)")
            if not os.path.isfile(path):  # reading a pipe would hang
                raise self._bad("no_image", name, "does not exist or is no file")
            if os.path.getsize(path) > MAX_MEMBER_BYTES:
                raise self._bad("too_large", name, f"has {os.path.getsize(path):,} bytes")
            data = path.read_bytes()
        except (OSError, ValueError) as error:
            raise self._bad("unreadable", name, str(error)) from error
        if not data:
            raise self._bad("empty_image", name, "has no bytes")
        return data

    def _bad(self, cause: str, name: str, detail: str) -> BadSample:
        return BadSample(Broken(str(self.table), name, cause, detail))


UNREAD = "cannot be read:"
"""In the stored rows, an `Unread` is the JSON object {UNREAD: its reason}."""


def _unread(value: Unread) -> dict[str, str]:
    return {UNREAD: value.why}
