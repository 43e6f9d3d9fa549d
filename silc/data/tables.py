"""Tables of images and captions: `.jsonl`, `.json` (a list), `.csv`, `.tsv` and `.txt` (both with a line of names).

    {"file_name": "images/1.jpg", "captions": ["a dog", "a dog that runs"]}       file_name,caption
    {"file_name": "images/2.jpg", "caption": "a boat"}                            images/1.jpg,a dog

A row of CSV is a line, unless a field that opens with a quote closes in a later one, as RFC 4180 has it. A quote that
closes nowhere, or only beyond lines that are rows themselves, is a quotation mark (Conceptual Captions' .tsv has no
other). Nothing of a row is cut off: one that cannot be read as the first line says is a broken sample of its own.
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
"""Tables that are looked for in a folder, upper or lower case; `metadata` is Hugging Face's."""
DELIMITERS = "\t,;|"
MAX_FIELD = 1 << 17
"""Characters of a line, or of a row of several."""
MAX_LINES = 50
"""Lines of one row; a quote that closes later closes another one."""
SHOWN = 40
"""Characters of a column's name in a message."""
UTF_16 = (b"\xff\xfe", b"\xfe\xff")
"""The byte order marks of UTF-16."""
ESCAPED = re.compile("[\udc80-\udcff]")
"""What Python's `surrogateescape` makes of bytes that are no UTF-8."""


@dataclass
class Rows:
    """What a table holds: {image: captions} in the order of first appearance, the captions not looked at yet."""

    captions: dict[str, list[Any]] = field(default_factory=dict)
    """A row without an image goes by its line."""
    num: int = 0
    """Rows, those of one image counted each."""
    keeps_fields: bool = False
    """Whether `fields` are kept: training needs none."""
    fields: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    """What the first row of an image says beside."""
    _names: dict[str, str] = field(default_factory=dict)

    def add(self, image: Any, found: list[Any], line: int, fields: Mapping[str, Any] | None = None) -> None:
        """Take a row in; rows whose paths mean the same are one image's, by the first one's spelling."""
        self.num += 1
        name = image.strip() if isinstance(image, str) and image.strip() else f"line {line}"
        plain = "/".join(part for part in name.split("/") if part != ".").replace("//", "/")
        name = self._names.setdefault(plain, name)
        self.captions.setdefault(name, []).extend(found)
        if self.keeps_fields and fields:
            beside = {key: value for key, value in fields.items() if key and key not in (*FIELDS, *IMAGE_FIELDS)}
            self.fields.setdefault(name, beside)


def table_of(path: Path) -> Path | None:
    """The table a path names, itself or in its folder (the first of `NAMES`); None if it names none."""
    if os.path.isdir(path):  # a pattern may be too long for a name, at which pathlib stumbles
        return next(iter(tables_in(path)), None)
    return path if path.suffix.lower() in TABLES and os.path.isfile(path) else None


def tables_in(folder: Path) -> list[Path]:
    """The tables in a folder, in the order of `NAMES`."""
    there = {file.name.lower(): file for file in sorted(folder.iterdir()) if file.is_file()}
    return [there[name] for name in NAMES if name in there]


def read_rows(table: Path, *, keep_fields: bool = False) -> Rows:
    """All rows of a table; with `keep_fields` the other columns too.

    Raises:
        BadInput: it cannot be read, or has no column of images or of captions.
    """
    try:
        data = table.read_bytes()
    except OSError as error:
        raise BadInput(f"{table} cannot be read: {error.strerror}; check the path and its permissions") from error
    if data.startswith(UTF_16):
        raise BadInput(f'{table} is UTF-16 text, as Excel\'s "Unicode Text" is; save it as UTF-8')
    # Bytes that are no UTF-8 become lone surrogates, by which they are known later, row by row.
    text = data.decode("utf-8-sig", errors="surrogateescape")
    rows = Rows(keeps_fields=keep_fields)
    if table.suffix.lower() not in (".json", ".jsonl"):
        return _csv_rows(text, table, rows)
    return _json_list(text, table, rows) if _is_one_value(text, table) else _json_lines(text, rows)


# --- JSON -------------------------------------------------------------------------------------------------------------


def _is_one_value(text: str, table: Path) -> bool:
    """Whether JSON is one value, as `.json` says and a list shows, and not an object a line."""
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
    # JSON's own escapes give lone surrogates too; those are characters cut in two, not bytes.
    rows.add(image, [_checked(each) for each in found] if has_escapes else found, number, fields)


def _checked(caption: Any) -> Any:
    no_text = isinstance(caption, str) and ESCAPED.search(caption)
    return Unread("has a caption that is no UTF-8") if no_text else caption


# --- CSV --------------------------------------------------------------------------------------------------------------


class _Columns(NamedTuple):
    """What a table's first line says."""

    delimiter: str
    num: int
    image: int
    captions: Sequence[int]
    names: Sequence[str]
    spaced: bool
    """Whether a space follows its delimiters."""

    def is_row(self, line: str) -> bool:
        """Whether a line by itself has the table's columns, with an image's name where images stand."""
        cells = line.rstrip("\r\n").split(self.delimiter)
        return len(cells) == self.num and is_image_name(cells[self.image].strip(' "'))


def _csv_rows(text: str, table: Path, rows: Rows) -> Rows:
    lines = list(io.StringIO(text, newline=""))  # ended by \n, \r or \r\n, as the csv module has it
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
            while not names[-1]:  # a delimiter that ends each line
                names.pop()
            return _Columns(delimiter, len(names), image, captions, names, f"{delimiter} " in header)
    shown = next(csv.reader([header[:400]], delimiter="\t" if "\t" in header else ","), [])[:8]
    raise BadInput(
        f"{table} has the columns {[name.strip()[:SHOWN] for name in shown]}; needed a first line that names one of "
        f"{'/'.join(IMAGE_FIELDS)} and one of {'/'.join(FIELDS)}"
    )


def _cells(lines: Sequence[str], start: int, columns: _Columns) -> Iterator[tuple[int, list[str] | Unread]]:
    """The rows after the first line: (number of their line, cells)."""
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
    """A row whose quotes do not close in its own line, and where the next one begins."""
    whole, place = lines[first], first + 1
    found = _quoted(whole.rstrip("\r\n"), columns.delimiter)
    while found is not None and place < min(first + MAX_LINES, len(lines)):  # a quote is open
        if len(whole) > MAX_FIELD or columns.is_row(lines[place]):
            break
        whole += lines[place]
        place += 1
        if '"' in lines[place - 1] and (found := _quoted(whole.rstrip("\r\n"), columns.delimiter)):
            return found, place
    # No quoted field, then: the quotes are part of the text.
    cells = lines[first].rstrip("\r\n").split(columns.delimiter)
    return [_unquoted(cell) for cell in cells], first + 1


def _quoted(row: str, delimiter: str) -> list[str] | None:
    """The cells of a row whose quotes are RFC 4180's; none at all while one is open, None if they are not."""
    try:
        return next(csv.reader(io.StringIO(row, newline=""), delimiter=delimiter, strict=True), [])
    except csv.Error as error:
        return [] if "unexpected end" in str(error) else None


def _unquoted(cell: str) -> str:
    """A cell without quotes around it, where it has nothing but quotes around it."""
    inside = cell[1:-1]
    return inside if len(cell) > 1 and cell[0] == cell[-1] == '"' and '"' not in inside else cell


def _rejoined(cells: Sequence[str], columns: _Columns) -> str | Unread:
    """The caption of a row with too many cells: a comma of prose is followed by a space, one between columns is not."""
    last = columns.num - 1
    prose = columns.delimiter == "," and all(cell.startswith(" ") for cell in cells[columns.num :])
    if prose and not columns.spaced and list(columns.captions) == [last]:
        return ",".join(cells[last:])
    return Unread(
        f"has {len(cells)} columns where the first line names {columns.num}; a comma in a caption needs quotes"
    )
