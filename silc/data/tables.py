"""Tables of images and captions: `.jsonl`, `.json` (a list), or `.csv`, `.tsv`, `.txt` (first line: column names).

    {"file_name": "images/1.jpg", "captions": ["a dog", "a dog that runs"]}       file_name,caption
    {"file_name": "images/2.jpg", "caption": "a boat"}                            images/1.jpg,a dog

A row of CSV is one line, unless a quoted field ends in a later line (RFC 4180). A quote that is never closed, or is
closed only after lines that are rows themselves, is part of the text (all quotes in Conceptual Captions' .tsv are).
No row is truncated: a row that does not fit the columns of the first line is a broken sample.
"""

from __future__ import annotations

import csv
import io
import json
import os
import re
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from silc.data.captions import FIELDS, Unread, captions_in
from silc.data.tar import TABLES
from silc.errors import BadInput
from silc.images import is_image_name

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

IMAGE_FIELDS = ("file_name", "image", "filepath", "filename", "image_path", "path")
NAMES = (*(f"captions{suffix}" for suffix in TABLES), "metadata.jsonl", "metadata.csv")
"""Names of tables in a folder, in upper or lower case; `metadata` is Hugging Face's name."""
DELIMITERS = "\t,;|"
MAX_FIELD = 1 << 17
"""Maximum number of characters of a row, over all its lines."""
MAX_LINES = 50
"""Maximum number of lines of one row; a quote that is still open after them is text."""
SHOWN = 40
"""Maximum number of characters of a column's name in a message."""
UTF_16 = (b"\xff\xfe", b"\xfe\xff")
"""The byte order marks of UTF-16."""
ESCAPED = re.compile("[\udc80-\udcff]")
"""The characters that Python's `surrogateescape` puts for bytes that are not valid UTF-8."""


@dataclass
class Rows:
    """The rows of a table, grouped by image."""

    captions: dict[str, list[Any]] = field(default_factory=dict)
    """{image: captions} in the order of first appearance. The captions are not checked yet. A row without an image has
    the name "line N"."""
    num: int = 0
    """Number of rows; an image may have several."""
    keeps_fields: bool = False
    """Whether to keep `fields`; training does not need them."""
    fields: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    """{image: other columns of its first row}."""
    _names: dict[str, str] = field(default_factory=dict)

    def add(self, image: Any, found: list[Any], line: int, fields: Mapping[str, Any] | None = None) -> None:
        """Add a row. Equal paths in different spellings are one image, named by the first spelling."""
        self.num += 1
        name = image.strip() if isinstance(image, str) and image.strip() else f"line {line}"
        plain = "/".join(part for part in name.split("/") if part != ".").replace("//", "/")
        name = self._names.setdefault(plain, name)
        self.captions.setdefault(name, []).extend(found)
        if self.keeps_fields and fields:
            beside = {key: value for key, value in fields.items() if key and key not in (*FIELDS, *IMAGE_FIELDS)}
            self.fields.setdefault(name, beside)


def table_of(path: Path) -> Path | None:
    """The table at a path: the file itself, or the first of `NAMES` in a folder; None if there is none."""
    if os.path.isdir(path):  # not pathlib: it raises if a pattern is too long for a file name
        return next(iter(tables_in(path)), None)
    return path if path.suffix.lower() in TABLES and os.path.isfile(path) else None


def tables_in(folder: Path) -> list[Path]:
    """The tables in a folder, in the order of `NAMES`."""
    there = {file.name.lower(): file for file in sorted(folder.iterdir()) if file.is_file()}
    return [there[name] for name in NAMES if name in there]


def read_rows(table: Path, *, keep_fields: bool = False) -> Rows:
    """All rows of a table; with `keep_fields` the other columns too.

    Raises:
        BadInput: the table cannot be read, or has no column of images or no column of captions.
    """
    try:
        data = table.read_bytes()
    except OSError as error:
        raise BadInput(f"{table} cannot be read: {error.strerror}; check the path and its permissions") from error
    if data.startswith(UTF_16):
        raise BadInput(f'{table} is UTF-16 text, as Excel\'s "Unicode Text" is; save it as UTF-8')
    # Bytes that are not valid UTF-8 become lone surrogates; later these mark the broken rows.
    text = data.decode("utf-8-sig", errors="surrogateescape")
    rows = Rows(keeps_fields=keep_fields)
    if table.suffix.lower() not in (".json", ".jsonl"):
        return _csv_rows(text, table, rows)
    return _json_list(text, table, rows) if _is_one_value(text, table) else _json_lines(text, rows)


# --- JSON -------------------------------------------------------------------------------------------------------------


def _is_one_value(text: str, table: Path) -> bool:
    """True if the whole text is one JSON value, for example a list; false if it has one object per line."""
    if text.lstrip().startswith("["):
        return True
    lines = (line for line in text.split("\n") if line.strip())
    starts = [line.strip()[:1] + line.strip()[-1:] for line in islice(lines, 2)]
    return table.suffix.lower() == ".json" and starts != ["{}", "{}"]


def _json_lines(text: str, rows: Rows) -> Rows:
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            try:
                fields = json.loads(line)
            except (ValueError, RecursionError):
                fields = None
            _add_object(rows, fields, number, has_escapes=bool(ESCAPED.search(line)))
    return rows


def _json_list(text: str, table: Path, rows: Rows) -> Rows:
    try:
        entries = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{table} is no JSON: {error}") from error
    if isinstance(entries, dict) and {"images", "annotations"} <= entries.keys():
        raise BadInput(
            f"{table} is in COCO's form, images and annotations apart; join them by image_id into a list of "
            '{"image": file, "captions": [text, ...]}'
        )
    if not isinstance(entries, list):
        raise BadInput(f'{table} must be a JSON list of {{"image": file, "captions": [text, ...]}}')
    has_escapes = bool(ESCAPED.search(text))
    for number, fields in enumerate(entries, start=1):
        _add_object(rows, fields, number, has_escapes=has_escapes)
    return rows


def _add_object(rows: Rows, fields: Any, number: int, *, has_escapes: bool) -> None:
    if not isinstance(fields, dict):
        rows.add(None, [Unread("has a row that is no JSON object")], number)
        return
    image = next((fields[name] for name in IMAGE_FIELDS if fields.get(name) is not None), None)
    found = captions_in(fields)
    # JSON's own escapes can give lone surrogates too, as halves of a character; those are no broken bytes.
    rows.add(image, [_checked(each) for each in found] if has_escapes else found, number, fields)


def _checked(caption: Any) -> Any:
    no_text = isinstance(caption, str) and ESCAPED.search(caption)
    return Unread("has a caption that is no UTF-8") if no_text else caption


# --- CSV --------------------------------------------------------------------------------------------------------------


class _Columns(NamedTuple):
    """The columns that a table's first line names."""

    delimiter: str
    num: int
    image: int
    captions: Sequence[int]
    names: Sequence[str]
    spaced: bool
    """Whether a space follows its delimiters."""

    def is_row(self, line: str) -> bool:
        """True if one line alone is a row: the right number of cells, with an image's name in the image column."""
        cells = line.rstrip("\r\n").split(self.delimiter)
        return len(cells) == self.num and is_image_name(cells[self.image].strip(' "'))


def _csv_rows(text: str, table: Path, rows: Rows) -> Rows:
    lines = list(io.StringIO(text, newline=""))  # lines end with \n, \r or \r\n, as in the csv module
    start = next((number for number, line in enumerate(lines) if line.strip()), 0)
    columns = _columns(lines[start] if lines else "", table)
    for number, cells in _cells(lines, start + 1, columns):
        if isinstance(cells, Unread):
            rows.add(None, [cells], number)
            continue
        image = cells[columns.image] if columns.image < len(cells) else None
        found: list[Any] = [cells[place] for place in columns.captions if place < len(cells)]
        surplus = cells[columns.num :]
        if any(cell.strip() for cell in surplus):
            found = [_rejoined(cells, columns)]
        fields = dict(zip(columns.names, cells, strict=False)) if rows.keeps_fields else None
        rows.add(image, [_checked(each) for each in found], number, fields)
    return rows


def _columns(header: str, table: Path) -> _Columns:
    header = header.rstrip("\r\n")
    for delimiter in DELIMITERS:
        cells = next(csv.reader([header], delimiter=delimiter), [])
        names = [name.strip().lower() for name in cells]
        image = next((names.index(name) for name in IMAGE_FIELDS if name in names), None)
        captions = [place for place, name in enumerate(names) if name in FIELDS]
        if image is not None and captions:
            while not names[-1]:  # the line ends with a delimiter
                names.pop()
            return _Columns(delimiter, len(names), image, captions, names, f"{delimiter} " in header)
    shown = next(csv.reader([header[:400]], delimiter="\t" if "\t" in header else ","), [])[:8]
    raise BadInput(
        f"{table} has the columns {[name.strip()[:SHOWN] for name in shown]}; needed a first line that names one of "
        f"{'/'.join(IMAGE_FIELDS)} and one of {'/'.join(FIELDS)}"
    )


def _cells(lines: Sequence[str], start: int, columns: _Columns) -> Iterator[tuple[int, list[str] | Unread]]:
    """The rows after the first line: (number of the row's first line, cells)."""
    place = start
    while place < len(lines):
        line = lines[place].rstrip("\r\n")
        number, place = place + 1, place + 1
        if not line.strip():
            continue
        if len(line) > MAX_FIELD:
            yield number, Unread(f"has a line of {len(line):,} characters; the limit is {MAX_FIELD:,}")
        elif '"' not in line:
            yield number, line.split(columns.delimiter)
        elif cells := _quoted(line, columns.delimiter):
            yield number, cells
        else:
            cells, place = _over_lines(lines, number - 1, columns)
            yield number, cells


def _over_lines(lines: Sequence[str], first: int, columns: _Columns) -> tuple[list[str], int]:
    """Cells of a row whose quotes are not closed in its first line, and the line where the next row begins."""
    whole, place = lines[first], first + 1
    found = _quoted(whole.rstrip("\r\n"), columns.delimiter)
    while found is not None and place < min(first + MAX_LINES, len(lines)):  # a quote is open
        if len(whole) > MAX_FIELD or columns.is_row(lines[place]):
            break
        whole += lines[place]
        place += 1
        if '"' in lines[place - 1] and (found := _quoted(whole.rstrip("\r\n"), columns.delimiter)):
            return found, place
    # There is no quoted field over several lines: the quotes are part of the text.
    cells = lines[first].rstrip("\r\n").split(columns.delimiter)
    return [_unquoted(cell) for cell in cells], first + 1


def _quoted(row: str, delimiter: str) -> list[str] | None:
    """The cells of a row quoted by RFC 4180; [] while a quote is still open, None if the quoting is not valid."""
    try:
        return next(csv.reader(io.StringIO(row, newline=""), delimiter=delimiter, strict=True), [])
    except csv.Error as error:
        return [] if "unexpected end" in str(error) else None


def _unquoted(cell: str) -> str:
    """A cell without its outer quotes, if these are its only quotes."""
    inside = cell[1:-1]
    return inside if len(cell) > 1 and cell[0] == cell[-1] == '"' and '"' not in inside else cell


def _rejoined(cells: Sequence[str], columns: _Columns) -> str | Unread:
    """The caption of a row with too many cells, joined again if its commas are prose (followed by a space)."""
    last = columns.num - 1
    prose = columns.delimiter == "," and all(cell.startswith(" ") for cell in cells[columns.num :])
    if prose and not columns.spaced and list(columns.captions) == [last]:
        return ",".join(cells[last:])
    return Unread(
        f"has {len(cells)} columns where the first line names {columns.num}; a comma in a caption needs quotes"
    )
