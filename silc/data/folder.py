"""A folder of images with a table of captions: `captions.jsonl`, or `captions.csv` with a header line.

    {"file_name": "images/1.jpg", "captions": ["a dog", "a dog that runs"]}       file_name,caption
    {"file_name": "images/2.jpg", "caption": "a boat"}                            images/1.jpg,a dog

Rows of one image are one pair with all their captions. Paths are relative to the table's folder; what lies outside it,
by `..`, by an absolute path or through a link, is a broken sample and is not read.
"""

from __future__ import annotations

import copy
import csv
import hashlib
import io
import json
import os
import re
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from silc.data.pairs import BadSample, Pair, clean_captions, spread_captions
from silc.data.tar import MAX_MEMBER_BYTES
from silc.images import MAX_PIXELS, BadImage, decode_pixels
from silc.types import BadInput, Broken

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from silc.images import Suffices

TABLES = ("captions.jsonl", "captions.csv")
IMAGE_FIELDS = ("file_name", "image", "filepath", "filename", "image_path", "path")
CAPTION_FIELDS = ("captions", "caption", "text", "title")
BLOCK = 1000
"""Rows that are mixed and read as one shard is."""


ESCAPED = re.compile("[\udc80-\udcff]")
"""What Python's `surrogateescape` makes of bytes that are no UTF-8."""


def table_of(path: Path) -> Path | None:
    """The table a path names, itself or in its folder; None if it names none."""
    candidates = [path / name for name in TABLES] if path.is_dir() else [path]
    return next((file for file in candidates if file.suffix in (".jsonl", ".csv") and file.is_file()), None)


class FolderPairs:
    """Pairs of a table of captions beside its images."""

    def __init__(self, table: Path, *, max_pixels: int = MAX_PIXELS) -> None:
        """
        Raises:
            BadInput: the table cannot be read, or has no column of images or of captions.
        """
        self.table = table
        self._decode = partial(decode_pixels, max_pixels=max_pixels)
        try:
            rows = _rows(table)
        except OSError as error:
            raise BadInput(f"{table} cannot be read: {error.strerror}; check the path and its permissions") from error
        # One string and its ends instead of a list of objects: forked workers share it without touching it.
        lines = [json.dumps(row).encode() for row in rows.items()]
        self._lines = b"".join(lines)
        self._ends = np.cumsum([len(line) for line in lines], dtype=np.int64)
        if not len(lines):
            raise BadInput(f"{table} holds no row of an image and its caption")
        starts = np.arange(0, len(lines), BLOCK)
        self.blocks = np.minimum(len(lines) - starts, BLOCK).astype(np.int64)
        self.fingerprint = hashlib.sha256(self._lines).hexdigest()
        self.faults: Sequence[Broken] = ()
        self._root = Path(os.path.realpath(table.parent))

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, index: int) -> Pair:
        name, found = self._row(index)
        captions = self._usable(name, found)
        try:
            return Pair(name, self._decode(self._read(name)), captions)
        except BadImage as error:
            raise self._bad(error.cause, name, str(error)) from error

    def where(self, index: int) -> str:
        """The image's name and the table."""
        return f"{self._row(index)[0]!r} of {self.table}"

    def reduced(self, suffices: Suffices) -> FolderPairs:
        """The same pairs, JPEGs decoded at a smaller scale that `suffices`."""
        pairs = copy.copy(self)
        pairs._decode = partial(self._decode, suffices=suffices)
        return pairs

    def read_ahead(self, indices: Sequence[int]) -> None:
        """Nothing: what is on a disk is there."""

    def captions(self, limit: int) -> Iterator[str]:
        """At most `limit` captions, the same number from samples at equal distances. Deterministic."""
        return spread_captions(len(self), limit, lambda index: self._usable(*self._row(index)))

    def _row(self, index: int) -> tuple[str, list[Any]]:
        if not 0 <= index < len(self):
            raise IndexError(index)
        start = int(self._ends[index - 1]) if index else 0
        name, captions = json.loads(self._lines[start : int(self._ends[index])])
        return name, captions

    def _usable(self, name: str, found: list[Any]) -> tuple[str, ...]:
        if not found:
            raise self._bad("no_caption", name, "has no caption")
        if not all(isinstance(caption, str) for caption in found):
            raise self._bad("broken_caption", name, "has a row that cannot be read")
        if any(ESCAPED.search(caption) for caption in found):
            raise self._bad("broken_caption", name, "has a caption that is no UTF-8")
        captions = clean_captions(found)
        if not captions:
            raise self._bad("empty_caption", name, "has only empty captions")
        return captions

    def _read(self, name: str) -> bytes:
        """The bytes of an image in the folder; nothing else is opened."""
        try:
            path = Path(os.path.realpath(self._root / name))
            if not path.is_relative_to(self._root):
                raise self._bad("unsafe_path", name, f"lies outside {self._root}")
            if not os.path.isfile(path):  # a pipe would be waited for
                raise self._bad("no_image", name, "is no file, or there is none")
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


def _rows(table: Path) -> dict[str, list[Any]]:
    """{image: captions} in the order of first appearance.

    A row without an image goes by its line; a caption that is no string stands for one that cannot be read.
    """
    # Bytes that are no UTF-8 become lone surrogates, by which they are known later, row by row.
    text = table.read_bytes().decode("utf-8-sig", errors="surrogateescape")
    return _json_rows(text) if table.suffix == ".jsonl" else _csv_rows(text, table)


def _json_rows(text: str) -> dict[str, list[Any]]:
    rows: dict[str, list[Any]] = {}
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            fields = json.loads(line)
        except (ValueError, RecursionError):
            fields = None
        if not isinstance(fields, dict):
            fields = {"captions": [None]}
        image, captions = _first(fields, IMAGE_FIELDS), _first(fields, CAPTION_FIELDS)
        own = rows.setdefault(image if isinstance(image, str) and image else f"line {number}", [])
        if captions is not None:
            own += captions if isinstance(captions, list) else [captions]
    return rows


def _csv_rows(text: str, table: Path) -> dict[str, list[Any]]:
    header = text.partition("\n")[0]
    reader = csv.reader(io.StringIO(text, newline=""), delimiter="\t" if "\t" in header else ",")
    names = [name.strip() for name in next(reader, [])]
    image_at = next((names.index(name) for name in IMAGE_FIELDS if name in names), None)
    captions_at = [place for place, name in enumerate(names) if name in CAPTION_FIELDS]
    if image_at is None or not captions_at:
        raise BadInput(
            f"{table} has the columns {names[:8]}; needed a first line that names one of {'/'.join(IMAGE_FIELDS)} and "
            f"one of {'/'.join(CAPTION_FIELDS)}"
        )
    rows: dict[str, list[Any]] = {}
    while True:
        try:
            row = next(reader, None)
        except csv.Error:
            rows[f"line {reader.line_num}"] = [None]
            continue
        if row is None:
            return rows
        if row:
            image = row[image_at].strip() if image_at < len(row) else ""
            rows.setdefault(image or f"line {reader.line_num}", []).extend(
                row[place] for place in captions_at if place < len(row)
            )


def _first(fields: dict[str, Any], names: Sequence[str]) -> Any:
    return next((fields[name] for name in names if fields.get(name) is not None), None)
