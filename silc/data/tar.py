"""Read tar shards in place: first an index of the members' offsets, then bytes by offset. No file is ever extracted.

A sample consists of the members with one key, anywhere in the shard. The key is the member's path without the last
suffix: `img.v2.jpg` and `img.v2.txt` are the sample `img.v2`. If a sample lacks an image or a caption, and its
key starts with another sample's key and a dot, it belongs to that other sample, because WebDataset's keys end at the
first dot: `img.seg.png` beside `img.jpg` and `img.txt` is a member of `img`, and is not read.

The image is the first `.jpg`, `.jpeg`, `.png` or `.webp` member, or else the first of another format. `Members` names
the other members to read; captions are in the `.txt` or `.json` member (img2dataset's layout). A second member of the
same kind starts a duplicate sample. Only regular files with a relative name without `..` are read. Archives joined by
`cat` are read to their end. Every member is in a sample or counted: see `ShardIndex.contents`.
"""

from __future__ import annotations

import json
import os
import tarfile
from collections import Counter
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from silc.data.captions import captions_in
from silc.errors import BadInput
from silc.images import READ, UNREAD

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from silc.data.remote import RemoteFile

FIRST_CHOICE = ("jpg", "jpeg", "png", "webp")
MEMBER = np.dtype([("offset", "<i8"), ("size", "<u4")])
"""Position of a member's bytes. Offset 0 means that the sample has no such member (a tar starts with a header)."""
TABLES = (".jsonl", ".csv", ".tsv", ".json", ".txt")
MAX_MEMBER_BYTES = 1 << 28
MAX_JSON_LOOKED_AT = 1 << 20
BLOCK = 512
COMPRESSED = "it is compressed by {0}, and members are read by their offset; unpack it with `{1}` first"
OTHERS = {
    b"PK": "it is a zip archive; unpack it and pack its files with `tar -cf`",
    b"PAR1": "it is a Parquet file (img2dataset writes one beside each shard, without the images); name the .tar files",
    b"version https://git-lfs": "it is a pointer of Git LFS; fetch the file itself with `git lfs pull`",
    b"\x1f\x8b": COMPRESSED.format("gzip", "gunzip"),
    b"\x28\xb5\x2f\xfd": COMPRESSED.format("zstd", "zstd -d"),
    b"BZh": COMPRESSED.format("bzip2", "bunzip2"),
    b"\xfd7zXZ": COMPRESSED.format("xz", "unxz"),
    b"\x04\x22\x4d\x18": COMPRESSED.format("lz4", "lz4 -d"),
}
"""Advice for files that are no tar, by their first bytes."""


@dataclass(frozen=True)
class Members:
    """The members of a sample that are read beside its image, by suffix in lower case: `txt`, `json`, `cls`, `seg.png`.

    A sample is complete with an image, all members of `must`, and at least one member of `must` or `may`. A suffix
    named here is never taken as the image; if two suffixes match a name, the longer one counts.
    """

    must: tuple[str, ...] = ()
    may: tuple[str, ...] = ()

    @cached_property
    def fields(self) -> tuple[str, ...]:
        """Names of a sample's members: `image`, and the suffixes of the others."""
        return ("image", *self.must, *self.may)

    @property
    def dtype(self) -> np.dtype[np.void]:
        """Dtype of a sample's row: its members, and whether an earlier sample of the shard has the same key."""
        return np.dtype([*((name, MEMBER) for name in self.fields), ("duplicate", "?")])

    def suffix_of(self, name: str) -> str:
        """The suffix of a file name in lower case; empty if there is none."""
        compound = [suffix for suffix in self.fields[1:] if "." in suffix and name.lower().endswith(f".{suffix}")]
        return max(compound, key=len, default=name.rpartition(".")[2].lower() if "." in name else "")

    def field_of(self, suffix: str) -> str:
        """The field (of `fields`) for a member with this suffix; empty if the member is not read."""
        if suffix in self.fields[1:]:
            return suffix
        return "image" if suffix in (*READ, *UNREAD) else ""

    def __str__(self) -> str:
        return (" and " if self.must else " or ").join(f"{{key}}.{suffix}" for suffix in self.must or self.may)


CAPTIONS = Members(may=("txt", "json"))
"""The members of image-caption pairs."""


@dataclass(frozen=True)
class ShardIndex:
    """Positions of the samples of one shard. For pairs: 37 bytes per sample, plus its key."""

    path: Path | RemoteFile
    samples: np.ndarray  # `Members.dtype` [N]
    names: bytes  # the N keys, concatenated
    name_ends: np.ndarray  # uint32 [N], end of each key in `names`
    ignored: tuple[str, ...]
    """Names of members that are links, devices or sparse files, or whose path is absolute or contains `..`."""
    damage: str
    """Description of the file's damage; empty if there is none. The samples before the damage are indexed."""
    contents: Mapping[str, int]
    """Number of members by use: `samples`, `folders`, `ignored`, `hidden`, `lost` (in a sample that is cut), or the
    suffix of members that are not read (`.cls`)."""

    def __len__(self) -> int:
        return len(self.samples)

    def key(self, row: int) -> str:
        """The key of a sample, for reports."""
        start = int(self.name_ends[row - 1]) if row else 0
        return self.names[start : int(self.name_ends[row])].decode(errors="replace")


@dataclass(eq=False)
class Sample:
    """The members of one key, while a shard is scanned."""

    key: str
    duplicate: bool
    must: tuple[str, ...]
    fields: dict[str, tuple[int, int]] = field(default_factory=dict)
    """(offset, size) by field."""
    suffixes: list[str] = field(default_factory=list)
    """Suffixes of all its members, including additional images."""
    image_suffix: str = ""

    @property
    def usable(self) -> bool:
        """True if the sample has an image, all required members, and at least one member beside the image."""
        return len(self.fields) > 1 and self.fields.keys() >= {"image", *self.must}

    def take(self, field_name: str, suffix: str, where: tuple[int, int]) -> None:
        """Add a member. Of several images, the first in a usual format is used, or else the first."""
        self.suffixes.append(suffix)
        better = field_name == "image" and suffix in FIRST_CHOICE and self.image_suffix not in FIRST_CHOICE
        if field_name not in self.fields or better:
            self.fields[field_name] = where
            self.image_suffix = suffix if field_name == "image" else self.image_suffix


@dataclass
class Walk:
    """The contents of a tar file, collected while its headers are read."""

    members: Members
    samples: list[Sample] = field(default_factory=list)
    """Samples in the order of their first members."""
    ignored: list[str] = field(default_factory=list)
    contents: Counter[str] = field(default_factory=Counter)
    damage: str = ""
    _first: dict[str, Sample] = field(default_factory=dict)
    _latest: dict[str, Sample] = field(default_factory=dict)
    _touched: Sample | None = None

    def add(self, name: str, suffix: str, where: tuple[int, int]) -> None:
        """Add a member to the sample of its key that lacks such a member, or to a new sample."""
        path, field_name = name[: -len(suffix) - 1], self.members.field_of(suffix)
        key = path.removeprefix("./")
        sample = next((each for each in self._candidates(key) if self._takes(each, field_name, suffix)), None)
        if sample is None:
            sample = Sample(path, key in self._first, self.members.must)
            self.samples.append(sample)
            self._first.setdefault(key, sample)
            self._latest[key] = sample
        sample.take(field_name, suffix, where)
        self._touched = sample

    def _candidates(self, key: str) -> list[Sample]:
        """Samples of a key, best match first: the oldest if incomplete, then the one changed last, then the newest."""
        if key not in self._first:
            return []
        first, latest = self._first[key], self._latest[key]
        between = [self._touched] if self._touched in (first, latest) else []
        return [first, *between, latest] if not first.usable else [*between, latest, first]

    def _takes(self, sample: Sample, field_name: str, suffix: str) -> bool:
        """True if a sample takes a member. A complete sample takes another image only right after its own members."""
        further = sample.usable and field_name in sample.fields and sample is not self._touched
        return suffix not in sample.suffixes and not further

    def finish(self, file: BinaryIO) -> None:
        """Remove a sample that is cut and samples that belong to others, then complete `contents`."""
        last = self._touched
        if self.damage and last is not None and not last.usable:
            self._leave_out([last], "lost")
        self._leave_out([each for each in self.samples if self._belongs_to_another(each, file)])
        for sample in self.samples:
            self.contents["samples"] += len(sample.fields)
            kept = {sample.image_suffix, *(name for name in sample.fields if name != "image")}
            self.contents.update(f".{suffix}" for suffix in sample.suffixes if suffix not in kept)
        self.contents += Counter(ignored=len(self.ignored))  # adds no key if that is 0

    def _belongs_to_another(self, sample: Sample, file: BinaryIO) -> bool:
        key = sample.key.removeprefix("./")
        dots = [place for place in range(key.rfind("/") + 2, len(key)) if key[place] == "."]
        if not any(key[:place] in self._first for place in dots):
            return False
        if not sample.usable:
            return True
        if self._first[key] is not self._latest[key]:  # a duplicate key
            return False
        captioned = "json" in self.members.may and sample.fields.keys() == {"image", "json"}
        return captioned and _says_nothing(file, sample.fields["json"])

    def _leave_out(self, samples: Sequence[Sample], fate: str = "") -> None:
        for suffix in (suffix for each in samples for suffix in each.suffixes):
            self.contents[fate or f".{suffix}"] += 1
        gone = set(samples)
        self.samples = [each for each in self.samples if each not in gone]


def walk(path: Path | RemoteFile, members: Members = CAPTIONS) -> Walk:
    """Read the headers of an uncompressed tar file and sort its members into samples.

    Raises:
        RemoteFault: a remote file cannot be read.
        BadInput: the file cannot be read.
    """
    found = Walk(members)
    try:
        with path.open("rb") as file:
            try:
                for member in _whole_members(file):
                    _sort_in(found, member)
            except (tarfile.TarError, ValueError, EOFError) as error:
                found.damage = str(error)
            found.finish(file)
    except OSError as error:
        raise BadInput(f"{path} cannot be read: {error.strerror}; check the path and its permissions") from error
    return found


def _sort_in(found: Walk, member: tarfile.TarInfo) -> None:
    base = member.name.rpartition("/")[2]
    suffix = found.members.suffix_of(base)
    if member.isdir():
        found.contents["folders"] += 1
    elif not _is_plain_file(member):
        found.ignored.append(member.name)
    elif base.startswith("."):  # hidden files, such as ._ files of macOS
        found.contents["hidden"] += 1
    elif not found.members.field_of(suffix):
        found.contents[f".{suffix}"] += 1
    else:
        found.add(member.name, suffix, (member.offset_data, member.size))


def index_shard(path: Path | RemoteFile, members: Members = CAPTIONS) -> ShardIndex:
    """Index the samples of a shard.

    Raises:
        RemoteFault: a remote file cannot be read.
        BadInput: the file cannot be read, is no uncompressed tar, or holds no sample.
    """
    found = walk(path, members)
    if not any(sample.usable for sample in found.samples):
        raise BadInput(f"{path} holds no sample: {_why_none(path, found)}")
    keys = [sample.key.encode(errors="replace") for sample in found.samples]
    rows = [
        (*(sample.fields.get(name, (0, 0)) for name in members.fields), sample.duplicate) for sample in found.samples
    ]
    return ShardIndex(
        path,
        np.array(rows, dtype=members.dtype),
        b"".join(keys),
        np.cumsum([len(key) for key in keys], dtype=np.uint32),
        tuple(found.ignored),
        found.damage,
        dict(found.contents),
    )


def _why_none(path: Path | RemoteFile, found: Walk) -> str:
    """Text for an error: what a file without samples contains, and what to do about it."""
    needed = f"a shard must be an uncompressed tar of {{key}}.jpg|jpeg|png|webp with {found.members}"
    if found.damage and not found.contents.total():
        with path.open("rb") as file:
            start = file.read(32)
        if advice := next((advice for mark, advice in OTHERS.items() if start.startswith(mark)), ""):
            return advice
        if path.name.lower().endswith(TABLES):
            return "it seems to be a table of captions; name such a table alone, not in a list or by a pattern"
        return f"it is no uncompressed tar file or is damaged ({found.damage}); {needed}"
    images = [each for each in found.samples if "image" in each.fields]
    texts = [each for each in found.samples if "image" not in each.fields]
    counts = Counter(f".{suffix}" for each in found.samples for suffix in each.suffixes)
    counts.update({fate: count for fate, count in found.contents.items() if fate != "samples"})
    listed = ", ".join(
        f"{count:,} {name if name != '.' else 'without suffix'}" for name, count in counts.most_common(8)
    )
    said, members = f"no two members belong together; its members are {listed or 'none'}", found.members
    wanted = f".{members.must[0]}" if members.must else "caption"
    if images and texts:
        said += (
            f"; the first image's key is {images[0].key!r}, the first {wanted}'s {texts[0].key!r}: a key is the path "
            "without its last suffix, folders included, and must be the same for both"
        )
    elif images and (
        behind := [suffix for suffix in members.fields[1:] if found.contents[f".{suffix}"]]
    ):  # these members were removed because they belong to the images
        key = images[0].key
        said += (
            f"; the first image's key is {key!r}, and the {wanted}s' keys continue after it with a dot, as in "
            f"{key}.jpg.{behind[0]}: a key is the path without its last suffix; rename them to {key}.{behind[0]}"
        )
    elif images or texts:
        absent = [f".{suffix}" for suffix in members.must if not counts[f".{suffix}"]]
        lacking = (absent or ["sample with all of them"])[0] if members.must else "caption"
        said += f", so there is no {lacking if images else 'image'}"
    return f"{said}; {needed}" + (f"; it is damaged too ({found.damage})" if found.damage else "")


def _whole_members(file: BinaryIO) -> Iterator[tarfile.TarInfo]:
    """Yield the members whose bytes are complete; raise ReadError if the archive does not end with a block of zeros.

    Another archive may follow after these zeros (`cat a.tar b.tar`; GNU's `--ignore-zeros`).
    """
    length = file.seek(0, os.SEEK_END)  # tarfile seeks before it reads
    start: int | None = 0
    while start is not None:
        file.seek(start)
        with tarfile.open(fileobj=file, mode="r:") as tar:
            for member in tar:
                # A member that is no plain file has no bytes in the tar, whatever size its header states.
                if member.isreg() and not member.issparse() and not 0 <= member.size <= length - member.offset_data:
                    raise tarfile.ReadError(f"cut short at byte {length:,}, within {member.name!r}")
                yield member
            # tarfile silently takes a broken or missing header for the end; a real end is a block of zeros.
            end = tar.offset
        file.seek(end)
        if file.read(BLOCK) != bytes(BLOCK):
            raise tarfile.ReadError(f"cut short or damaged at byte {end:,} of {length:,}")
        start = _next_archive(file, length)


def _next_archive(file: BinaryIO, length: int) -> int | None:
    """Skip zeros from the current position. Return the start of the next archive, or None at the end of the file.

    Raises:
        ReadError: the bytes after the zeros are no archive.
    """
    while block := file.read(BLOCK):
        if any(block):
            start = file.tell() - len(block)
            try:
                tarfile.TarInfo.frombuf(block, tarfile.ENCODING, "surrogateescape")
            except tarfile.HeaderError:
                raise tarfile.ReadError(f"damaged at byte {start:,} of {length:,}: no member begins there") from None
            return start
    return None


def _is_plain_file(member: tarfile.TarInfo) -> bool:
    # A sparse file is not stored as plain bytes.
    plain = member.isreg() and not member.issparse() and member.size <= np.iinfo(np.uint32).max
    return plain and not member.name.startswith("/") and ".." not in member.name.split("/")


def _says_nothing(file: BinaryIO, where: tuple[int, int]) -> bool:
    """True if a JSON member has no captions, for example the metadata of a mask."""
    if where[1] > MAX_JSON_LOOKED_AT:
        return False
    file.seek(where[0])
    try:
        fields = json.loads(file.read(where[1]))
    except (ValueError, RecursionError):
        return False
    return not (isinstance(fields, dict) and captions_in(fields))
