"""Tar shards read in place: an index of the members' offsets, then bytes by offset. Nothing is ever extracted.

A sample is the run of members with one key; the key is the path up to the first dot of its last part (WebDataset's
rule). Its image is the `.jpg`, `.jpeg`, `.png` or `.webp` member, its captions are in the `.txt` or `.json` one
(img2dataset's layout). A key that comes again later, or begins anew after a whole sample, is a duplicate. Only regular
files with a relative name without `..` count.
"""

from __future__ import annotations

import os
import tarfile
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from silc.types import BadInput

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from silc.data.remote import RemoteFile

PARTS = {"jpg": "image", "jpeg": "image", "png": "image", "webp": "image", "txt": "txt", "json": "json"}
MEMBER = np.dtype([("offset", "<i8"), ("size", "<u4")])
"""Where a member's bytes are. Offset 0 says that the sample has no such member: a header always comes first."""
SAMPLE = np.dtype([("image", MEMBER), ("txt", MEMBER), ("json", MEMBER), ("duplicate", "?")])
"""A sample's members, and whether its shard has an earlier one of the same key."""
MAX_MEMBER_BYTES = 1 << 28
BLOCK = 512


@dataclass(frozen=True)
class ShardIndex:
    """Where the samples of one shard are: 37 bytes a sample and its key."""

    path: Path | RemoteFile
    samples: np.ndarray  # SAMPLE [N]
    names: bytes  # the N keys, one after the other
    name_ends: np.ndarray  # uint32 [N]
    ignored: tuple[str, ...]
    """Names of members that are links, devices or sparse files, or that are absolute or have `..`."""
    damage: str
    """What is wrong with the file, empty if nothing is; the samples before the damage are there."""

    def __len__(self) -> int:
        return len(self.samples)

    def key(self, row: int) -> str:
        """Name of a sample, for reports."""
        start = int(self.name_ends[row - 1]) if row else 0
        return self.names[start : int(self.name_ends[row])].decode(errors="replace")


def index_shard(path: Path | RemoteFile) -> ShardIndex:
    """Walk the headers of an uncompressed tar file.

    Raises:
        RemoteFault: a remote file cannot be had.
        BadInput: the file cannot be read, is no uncompressed tar, or holds no image with a caption.
    """
    samples: list[tuple[str, dict[str, tuple[int, int]]]] = []
    extensions: set[str] = set()  # of the last sample
    ignored: list[str] = []
    damage = ""
    try:
        with path.open("rb") as file, tarfile.open(fileobj=file, mode="r:") as tar:
            for member in _whole_members(tar, file):
                if not _is_plain_file(member):
                    ignored += [member.name] if not member.isdir() else []
                    continue
                folder, slash, name = member.name.rpartition("/")
                stem, _, extension = name.partition(".")
                extension = extension.lower()
                part = PARTS.get(extension)
                if part is None:
                    continue
                key = folder + slash + stem
                if not samples or samples[-1][0] != key or (extension in extensions and _is_usable(samples[-1][1])):
                    samples.append((key, {}))
                    extensions.clear()
                extensions.add(extension)
                samples[-1][1].setdefault(part, (member.offset_data, member.size))
    except (tarfile.TarError, ValueError, EOFError) as error:
        damage = str(error)
    except OSError as error:
        raise BadInput(f"{path} cannot be read: {error.strerror}; check the path and its permissions") from error

    if damage and samples and not _is_usable(samples[-1][1]):
        samples.pop()  # the cut went through it
    if not any(_is_usable(parts) for _, parts in samples):
        reason = f"it is no uncompressed tar file or is damaged ({damage})" if damage else "no member pair fits"
        raise BadInput(
            f"{path} holds no sample: {reason}; needed an uncompressed tar of "
            "{key}.jpg|jpeg|png|webp with {key}.txt or {key}.json"
        )
    keys = [key.encode(errors="replace") for key, _ in samples]
    rows, seen = [], set()
    for key, parts in samples:
        rows.append((*(parts.get(part, (0, 0)) for part in ("image", "txt", "json")), key in seen))
        seen.add(key)
    return ShardIndex(
        path,
        np.array(rows, dtype=SAMPLE),
        b"".join(keys),
        np.cumsum([len(key) for key in keys], dtype=np.uint32),
        tuple(ignored),
        damage,
    )


def _whole_members(tar: tarfile.TarFile, file: BinaryIO) -> Iterator[tarfile.TarInfo]:
    """The members whose bytes are all there; raises ReadError where the archive does not end as a tar ends."""
    length = file.seek(0, os.SEEK_END)  # tarfile seeks to where it reads
    for member in tar:
        # What is no plain file has no bytes of its own here, whatever size it states.
        if member.isreg() and not member.issparse() and not 0 <= member.size <= length - member.offset_data:
            raise tarfile.ReadError(f"cut short at byte {length:,}, within {member.name!r}")
        yield member
    # tarfile takes a broken header, or none at all, silently for the end; the end is a block of zeros.
    file.seek(tar.offset)
    if file.read(BLOCK) != bytes(BLOCK):
        raise tarfile.ReadError(f"cut short or damaged at byte {tar.offset:,} of {length:,}")


def _is_plain_file(member: tarfile.TarInfo) -> bool:
    # A sparse file's bytes are not stored as they are read.
    plain = member.isreg() and not member.issparse() and member.size <= np.iinfo(np.uint32).max
    return plain and not member.name.startswith("/") and ".." not in member.name.split("/")


def _is_usable(parts: dict[str, tuple[int, int]]) -> bool:
    return "image" in parts and ("txt" in parts or "json" in parts)


class Files:
    """Descriptors of open files, the oldest closed beyond `limit`. Read by offset, so forked workers may share them."""

    def __init__(self, limit: int = 256) -> None:
        self.limit = limit
        self._descriptors: dict[Path, int] = {}

    def read(self, path: Path, offset: int, size: int) -> bytes:
        """`size` bytes at `offset`, fewer if the file has become shorter."""
        descriptor = self._descriptors.get(path)
        if descriptor is None:
            if len(self._descriptors) >= self.limit:
                os.close(self._descriptors.pop(next(iter(self._descriptors))))
            descriptor = self._descriptors[path] = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        return os.pread(descriptor, size, offset)

    def __getstate__(self) -> dict[str, int]:
        return {"limit": self.limit}

    def __setstate__(self, state: dict[str, int]) -> None:
        self.__init__(**state)  # type: ignore[misc]

    def __del__(self) -> None:
        for descriptor in self._descriptors.values():
            os.close(descriptor)
