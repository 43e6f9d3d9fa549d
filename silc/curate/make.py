"""Shards made of what people have: a table of captions beside its images, images with a text file each, or parquet.

Images go in as they are. A sample is `KEY.jpg` (or its format's suffix), `KEY.txt` with the first caption, and
`KEY.json` with uid, caption, captions, file_name, width, height and sha256: img2dataset's layout.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import tarfile
from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from silc.batch import Broken
from silc.data.captions import NoCaption, captions_in, usable
from silc.data.folder import Entry, FolderPairs
from silc.data.index_cache import expanded
from silc.data.pairs import BadSample
from silc.data.tables import IMAGE_FIELDS, Rows, table_of
from silc.data.uids import uid_of
from silc.durable import whole, write_whole
from silc.errors import BadInput
from silc.extras import needs
from silc.images import BadImage, identify, is_image_name

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

ABOUT = "make.json"
"""What the shards of a folder were made of, beside them."""
SUFFIXES = {"JPEG": "jpg", "MPO": "jpg", "PNG": "png", "WEBP": "webp", "GIF": "gif", "BMP": "bmp"}


class Entries(Protocol):
    """Numbered entries."""

    fingerprint: str
    """Changes when a number would mean another entry."""

    def __len__(self) -> int: ...

    def entry(self, index: int) -> Entry:
        """Raises BadSample when it cannot be used."""
        ...


@dataclass(frozen=True)
class Places:
    """Where shards go: `/data/{00000..}.tar`."""

    before: str
    first: str
    after: str

    def __getitem__(self, number: int) -> Path:
        name = str(int(self.first) + number).zfill(len(self.first))
        return Path(f"{self.before}{name}{self.after}")


def places_of(given: str) -> Places:
    """
    Raises:
        BadInput: it is no such pattern.
    """
    found = None if "://" in given else re.fullmatch(r"([^{}]*)\{(\d+)\.\.\}([^{}/]*\.tar)", given)
    if found is None:
        raise BadInput(
            f"--out {given} is where shards go, on this machine; give a pattern without an end, as "
            "'/data/{00000..}.tar'"
        )
    return Places(str(expanded(found[1] + "x"))[:-1], found[2], found[3])


def open_entries(given: str, image_root: str = "") -> Entries:
    """What shards are to be made of.

    Raises:
        BadInput: it is not there, or is none of what is known.
    """
    path = expanded(given)
    root = expanded(image_root) if image_root else None
    if table := table_of(path):
        return FolderPairs(table, image_root=root)
    if path.suffix.lower() == ".parquet" and path.is_file():
        return _of_parquet(path, root)
    if path.is_dir():
        return FolderPairs(path / "its files", rows=_beside(path), image_root=root or path)
    raise BadInput(
        f"{given} is nothing that shards are made of; give a table (.csv, .tsv, .jsonl, .json, .parquet) of images and "
        "captions, or a folder of images with a .txt or .json of the same name each"
    )


def make(entries: Entries, places: Places, num: int, title: str) -> Iterator[tuple[Path, int, list[Broken]]]:
    """Write shards of `num` entries each; those that are there are done.

    Returns: for each shard its path, how many samples it holds, and what was left out; none of both where it was there.

    Raises:
        BadInput: what is there was made of something else.
    """
    about = {"made_of": entries.fingerprint, "per_shard": num}
    beside = places[0].parent / ABOUT
    if beside.is_file():
        theirs = json.loads(beside.read_text())
        if theirs != about:
            raise BadInput(f"{beside} says that the shards there are of another table or size; give another --out")
    elif places[0].exists():
        raise BadInput(f"{places[0]} is there, and was not made by `silc data make`; give another --out")
    write_whole(beside, json.dumps(about) + "\n")
    for number, start in enumerate(range(0, len(entries), num)):
        path = places[number]
        if path.is_file():
            yield path, 0, []
            continue
        broken: list[Broken] = []
        with whole(path) as partial:
            held = _write(partial, path, entries, range(start, min(start + num, len(entries))), title, broken)
        if not held:
            path.unlink()  # all of it was broken
        yield path, held, broken


def _write(partial: Path, path: Path, entries: Entries, indices: range, title: str, broken: list[Broken]) -> int:
    digits = max(4, len(str(len(indices) - 1)))
    held = 0
    with tarfile.open(partial, "w", format=tarfile.USTAR_FORMAT) as tar:
        for row, index in enumerate(indices):
            try:
                entry = entries.entry(index)
                format, size = identify(entry.image)
            except BadSample as error:
                broken.append(error.broken)
                continue
            except BadImage as error:
                broken.append(Broken(title, entry.name, error.cause, str(error)))
                continue
            held += 1
            key = f"{path.stem}{row:0{digits}d}"
            _add(tar, f"{key}.{SUFFIXES[format]}", entry.image)
            _add(tar, f"{key}.txt", entry.captions[0].encode())
            _add(tar, f"{key}.json", json.dumps(_about(entry, size, title), ensure_ascii=False).encode())
    return held


def _about(entry: Entry, size: tuple[int, int], title: str) -> dict[str, Any]:
    several = {"captions": entry.captions} if len(entry.captions) > 1 else {}
    return {
        "uid": uid_of({}, title, entry.name),
        "caption": entry.captions[0],
        **several,
        "file_name": entry.name,
        "width": size[0],
        "height": size[1],
        "sha256": hashlib.sha256(entry.image).hexdigest(),
    }


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    header = tarfile.TarInfo(name)
    header.size = len(data)
    tar.addfile(header, io.BytesIO(data))


def described(made: Sequence[tuple[Path, int, list[Broken]]]) -> str:
    """In lines."""
    written = [path for path, held, _ in made if held]
    causes = Counter(one.cause for _, _, broken in made for one in broken)
    lines = [f"{sum(held for _, held, _ in made):,} samples are in {len(written):,} new shards"]
    if there := sum(not held and not broken for _, held, broken in made):
        lines.append(f"{there:,} shards were there already")
    if causes:
        lines.append("left out: " + ", ".join(f"{cause} {count:,}" for cause, count in sorted(causes.items())))
        first = next(one for _, _, broken in made for one in broken)
        lines.append(f"the first: {first.key!r} {first.detail}")
    return "\n".join(lines)


# --- folders and parquet ----------------------------------------------------------------------------------------------


def _beside(folder: Path) -> Rows:
    """The images below a folder, with the captions in the .txt or .json of their names.

    Raises:
        BadInput: there is no image, or none has such a file.
    """
    rows, captioned = Rows(), False
    images = [file for file in sorted(folder.rglob("*")) if is_image_name(file.name) and file.is_file()]
    for number, file in enumerate(images, start=1):
        found: list[Any] = []
        if (other := file.with_suffix(".json")).is_file():
            try:
                fields = json.loads(other.read_bytes())
                found = captions_in(fields) if isinstance(fields, dict) else []
            except (ValueError, RecursionError):
                found = []
        if not found and (other := file.with_suffix(".txt")).is_file():
            found = [other.read_text(encoding="utf-8-sig", errors="replace")]
        captioned = captioned or bool(found)
        rows.add(file.relative_to(folder).as_posix(), found, number)
    if not captioned:
        raise BadInput(
            f"{folder} holds {len(images):,} images and says of none what it shows; needed is a table (captions.csv "
            "with a first line 'file_name,caption'), or a .txt or .json of the same name beside each"
        )
    return rows


def _of_parquet(path: Path, root: Path | None) -> Entries:
    parquet = needs("reading parquet", "pyarrow.parquet", "curate")
    try:
        schema = parquet.read_schema(path)
    except (OSError, ValueError) as error:
        raise BadInput(f"{path} is no whole parquet file: {' '.join(str(error).split())[:120]}") from error
    image = next((name for name in IMAGE_FIELDS if name in schema.names), None)
    captions = [name for name in ("captions", "caption", "text", "title") if name in schema.names]
    if image is None or not captions:
        raise BadInput(
            f"{path} has the columns {', '.join(schema.names[:12])}; needed one of {'/'.join(IMAGE_FIELDS)} and one of "
            "captions/caption/text/title"
        )
    table = parquet.read_table(path, columns=captions)
    found = [captions_in(row) for row in table.to_pylist()]
    if str(schema.field(image).type) not in ("string", "large_string"):
        return ParquetEntries(path, image, found)
    rows = Rows()
    for number, name in enumerate(parquet.read_table(path, columns=[image]).column(0).to_pylist(), start=1):
        rows.add(name, found[number - 1], number)
    return FolderPairs(path, rows=rows, image_root=root or path.parent)


class ParquetEntries:
    """Images whose bytes are in the file: a column of bytes, or of {bytes, path} as Hugging Face's datasets have it."""

    def __init__(self, path: Path, image: str, captions: Sequence[Sequence[Any]]) -> None:
        self.path, self.image, self.found = path, image, captions
        self.fingerprint = hashlib.sha256(f"{path.name}\0{path.stat().st_size}\0{len(captions)}".encode()).hexdigest()
        self._group, self._rows = -1, list[Any]()

    def __len__(self) -> int:
        return len(self.found)

    def entry(self, index: int) -> Entry:
        """The image of a row, whose group of rows is read at once."""
        group = next(number for number, end in enumerate(self._ends) if index < end)
        if group != self._group:
            self._rows = self._file.read_row_group(group, columns=[self.image]).column(0).to_pylist()
            self._group = group
        value = self._rows[index - (self._ends[group - 1] if group else 0)]
        path, data = (value.get("path"), value.get("bytes")) if isinstance(value, dict) else (None, value)
        name = path or f"row {index}"
        if not data:
            raise BadSample(Broken(str(self.path), name, "empty_image", "has no bytes in its row"))
        try:
            return Entry(name, usable(self.found[index]), data)
        except NoCaption as error:
            raise BadSample(Broken(str(self.path), name, error.cause, str(error))) from error

    @cached_property
    def _file(self) -> Any:
        return needs("reading parquet", "pyarrow.parquet", "curate").ParquetFile(self.path)

    @cached_property
    def _ends(self) -> list[int]:
        ends, metadata = [0], self._file.metadata
        for number in range(metadata.num_row_groups):
            ends.append(ends[-1] + metadata.row_group(number).num_rows)
        return ends[1:]
