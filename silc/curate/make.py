"""Make shards from a table of captions with images, from images with a text file each, or from parquet.

The images' bytes are copied unchanged. A sample is `KEY.jpg` (or its format's suffix), `KEY.txt` with the first
caption, and `KEY.json` with uid, caption, captions, file_name, width, height, sha256 and the other columns of its row:
img2dataset's layout.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import tarfile
from bisect import bisect_right
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from silc.batch import Broken
from silc.data.captions import FIELDS, NoCaption, Unread, captions_in, usable
from silc.data.folder import Entry, FolderPairs
from silc.data.index_cache import expanded
from silc.data.pairs import BadSample
from silc.data.tables import IMAGE_FIELDS, Rows, read_rows, table_of
from silc.data.uids import uid_of
from silc.durable import whole, write_whole
from silc.errors import BadInput
from silc.extras import needs
from silc.images import BadImage, identify, is_image_name

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

ABOUT = "make.json"
"""File beside the shards that describes their source."""
SUFFIXES = {"JPEG": "jpg", "MPO": "jpg", "PNG": "png", "WEBP": "webp", "GIF": "gif", "BMP": "bmp"}


class Entries(Protocol):
    """Numbered images with captions, to be written into shards."""

    fingerprint: str
    """Digest that changes if a number means another entry."""

    def __len__(self) -> int: ...

    def entry(self, index: int) -> Entry:
        """Read an entry; raises BadSample if it cannot be used."""
        ...


@dataclass(frozen=True)
class Places:
    """Paths of the shards to write, from a pattern such as `/data/{00000..}.tar`."""

    before: str
    first: str
    after: str

    def __getitem__(self, number: int) -> Path:
        name = str(int(self.first) + number).zfill(len(self.first))
        return Path(f"{self.before}{name}{self.after}")


def places_of(given: str) -> Places:
    """Parse a pattern for shards.

    Raises:
        BadInput: the text is no such pattern.
    """
    found = None if "://" in given else re.fullmatch(r"([^{}]*)\{(\d+)\.\.\}([^{}/]*\.tar)", given)
    if found is None:
        raise BadInput(
            f"--out {given} is no pattern of shards on this machine; give a range without an end, as in "
            "'/data/{00000..}.tar'"
        )
    return Places(str(expanded(found[1] + "x"))[:-1], found[2], found[3])


def open_entries(given: str, image_root: str = "") -> Entries:
    """Open the table, folder or parquet file to make shards from.

    Raises:
        BadInput: it does not exist, or is of another kind.
    """
    path = expanded(given)
    root = expanded(image_root) if image_root else None
    if table := table_of(path):
        return FolderPairs(table, rows=read_rows(table, keep_fields=True), image_root=root)
    if path.suffix.lower() == ".parquet" and path.is_file():
        return _of_parquet(path, root)
    if path.is_dir():
        return FolderPairs(path / "its files", rows=_beside(path), image_root=root or path)
    raise BadInput(
        f"shards cannot be made of {given}; give a table (.csv, .tsv, .jsonl, .json, .parquet) of images and "
        "captions, or a folder of images, each with a .txt or .json of the same name"
    )


def make(entries: Entries, places: Places, num: int, title: str) -> Iterator[tuple[Path, int, list[Broken]]]:
    """Write shards of `num` entries each; skip shards that exist.

    Yields (path, number of samples, broken entries) for each shard; (path, 0, []) if the shard existed.

    Raises:
        BadInput: the existing shards were made from another source or with other settings.
    """
    about = {"made_of": entries.fingerprint, "per_shard": num, "names": places[0].name}
    beside = places[0].parent / ABOUT
    if beside.is_file():
        if about | _read_about(beside) != about:
            raise BadInput(
                f"{beside} says that the existing shards have another table, another size or other numbers; give "
                "another --out"
            )
    elif places[0].exists():
        raise BadInput(f"{places[0]} exists and was not made by `silc data make`; give another --out")
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
            path.unlink()  # all its entries are broken
        yield path, held, broken


def _read_about(file: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(file.read_text()))
    except (ValueError, TypeError) as error:
        raise BadInput(
            f"{file} does not say what the existing shards were made of ({error}); give another --out"
        ) from error


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
            key = f"{path.stem.replace('.', '-')}{row:0{digits}d}"  # WebDataset's keys end at the first dot
            _add(tar, f"{key}.{SUFFIXES[format]}", entry.image)
            _add(tar, f"{key}.txt", entry.captions[0].encode())
            _add(tar, f"{key}.json", _about(entry, size, index))
    return held


def _about(entry: Entry, size: tuple[int, int], number: int) -> bytes:
    """The JSON of a sample: the columns of its row, and facts about its image.

    A given uid that is not 32 hexadecimal digits is kept as `given_uid`. A uid is then made from image, caption and
    number, because different tables may use the same names.
    """
    digest = hashlib.sha256(entry.image).hexdigest()
    given = dict(entry.fields or {})
    theirs = given.pop("uid", None)
    uid = uid_of({"uid": theirs}, digest, f"{number}\0{entry.captions[0]}")
    if theirs is not None and str(theirs).lower() != uid:
        given["given_uid"] = theirs
    captions = {"captions": entry.captions} if len(entry.captions) > 1 else {}
    ours = {"file_name": entry.name, "width": size[0], "height": size[1], "sha256": digest}
    fields = {"uid": uid, "caption": entry.captions[0], **captions, **given, **ours}
    return json.dumps(fields, ensure_ascii=False, default=str).encode(errors="replace")


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    header = tarfile.TarInfo(name)
    header.size = len(data)
    tar.addfile(header, io.BytesIO(data))


def described(made: Sequence[tuple[Path, int, list[Broken]]]) -> str:
    """Summary of the new shards as text, for a terminal."""
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
    """The images below a folder, with the captions from the .txt or .json file of the same name.

    Raises:
        BadInput: there is no image, or no image has a caption.
    """
    rows, captioned = Rows(keeps_fields=True), False
    images = [file for file in sorted(folder.rglob("*")) if is_image_name(file.name) and file.is_file()]
    for number, file in enumerate(images, start=1):
        fields: Any = {}
        if (other := file.with_suffix(".json")).is_file():
            with suppress(ValueError, RecursionError):
                fields = json.loads(other.read_bytes())
        fields = fields if isinstance(fields, dict) else {}
        found = captions_in(fields)
        if not found and (other := file.with_suffix(".txt")).is_file():
            found = [_text_in(other)]
        captioned = captioned or bool(found)
        rows.add(file.relative_to(folder).as_posix(), found, number, fields)
    if not captioned:
        raise BadInput(
            f"{folder} holds {len(images):,} images and no captions; add a table (captions.csv with the "
            "first line 'file_name,caption'), or a .txt or .json of the same name beside each image"
        )
    return rows


def _text_in(file: Path) -> str | Unread:
    try:
        return file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        return Unread(f"has a caption that cannot be read: {error}")


def _of_parquet(path: Path, root: Path | None) -> Entries:
    parquet = needs("reading parquet", "pyarrow.parquet", "curate")
    try:
        schema = parquet.read_schema(path)
    except (OSError, ValueError) as error:
        raise BadInput(f"{path} is no complete parquet file: {' '.join(str(error).split())[:120]}") from error
    image = next((name for name in IMAGE_FIELDS if name in schema.names), None)
    captions = [name for name in FIELDS if name in schema.names]
    if image is None or not captions:
        raise BadInput(
            f"{path} has the columns {', '.join(schema.names[:12])}; needed one of {'/'.join(IMAGE_FIELDS)} and one of "
            "captions/caption/text/title"
        )
    plain = [name for name in schema.names if name not in IMAGE_FIELDS and _is_plain(schema.field(name).type)]
    given = parquet.read_table(path, columns=list(dict.fromkeys((*captions, *plain)))).to_pylist()
    kind = str(schema.field(image).type)
    if re.match(r"(large_)?binary|fixed_size_binary|struct<", kind):
        return ParquetEntries(path, image, given)
    if "string" not in kind or kind.startswith("list"):
        raise BadInput(f"{path} holds {kind} in its column {image}; needed paths, images' bytes, or {{bytes, path}}")
    rows = Rows(keeps_fields=True)
    names = parquet.read_table(path, columns=[image]).column(0).to_pylist()
    for number, (name, fields) in enumerate(zip(names, given, strict=True), start=1):
        rows.add(name, captions_in(fields), number, fields)
    return FolderPairs(path, rows=rows, image_root=root or path.parent)


def _is_plain(type_: Any) -> bool:
    """True if a column's values can be written as JSON."""
    return (
        str(type_) in ("string", "large_string", "bool")
        or re.fullmatch(r"u?int\d+|float|double", str(type_)) is not None
    )


class ParquetEntries:
    """Images stored in a parquet file: a column of bytes, or of {bytes, path} as in Hugging Face's datasets."""

    def __init__(self, path: Path, image: str, given: Sequence[Mapping[str, Any]]) -> None:
        """
        Args:
            given: the other columns of each row.

        Raises:
            BadInput: the file has no rows.
        """
        if not given:
            raise BadInput(f"{path} has no row; shards are made of rows with an image and a caption")
        self.path, self.image, self.given = path, image, given
        self.fingerprint = hashlib.sha256(f"{path.name}\0{path.stat().st_size}\0{len(given)}".encode()).hexdigest()
        self._group, self._rows = -1, list[Any]()

    def __len__(self) -> int:
        return len(self.given)

    def entry(self, index: int) -> Entry:
        """Read an entry. Its whole row group is read and kept for the next call."""
        group = bisect_right(self._ends, index)
        if group != self._group:
            self._rows = self._file.read_row_group(group, columns=[self.image]).column(0).to_pylist()
            self._group = group
        value = self._rows[index - (self._ends[group - 1] if group else 0)]
        path, data = (value.get("path"), value.get("bytes")) if isinstance(value, dict) else (None, value)
        name = path or f"row {index}"
        if not data:
            raise BadSample(Broken(str(self.path), name, "empty_image", "has no bytes in its row"))
        try:
            beside = {key: said for key, said in self.given[index].items() if key not in FIELDS}
            return Entry(name, usable(captions_in(self.given[index])), data, beside)
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
