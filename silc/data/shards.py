"""Samples of WebDataset or img2dataset tar shards, read by random access: image-caption pairs here, other samples in
other subclasses of `Shards`."""

from __future__ import annotations

import copy
import hashlib
import json
import random
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any, Self, TypeVar

import numpy as np

from silc.batch import Broken
from silc.data.captions import NoCaption, Unread, captions_in, usable
from silc.data.open_files import OpenFiles
from silc.data.pairs import READ_AHEAD, BadSample, Pair, Pairs, Sample, Source, spread_captions
from silc.data.remote import CONCURRENT, RemoteFault, RemoteFile
from silc.data.tar import CAPTIONS, MAX_MEMBER_BYTES, Members, ShardIndex, index_shard
from silc.data.uids import halves, uid_of
from silc.errors import BadInput
from silc.images import MAX_PIXELS, BadImage, decode_pixels
from silc.terminal import track

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from silc.images import Suffices

Found = TypeVar("Found")

GAP = 1 << 16
"""Two members of a sample are read together if at most this many bytes are between them."""


class Shards(Source[Sample]):
    """Samples of tar shards. A subclass sets `members` (what to read) and `__getitem__` (how to build a sample)."""

    members: Members

    def __init__(
        self,
        paths: Sequence[Path | RemoteFile],
        *,
        max_pixels: int = MAX_PIXELS,
        turned: bool = False,
        index: Callable[[Path | RemoteFile, Members], ShardIndex] = index_shard,
        show: bool = False,
    ) -> None:
        """`index` finds a shard's samples; `show` shows its progress on a terminal.

        Raises:
            BadInput: no shard holds a sample; RemoteFault, if a remote shard cannot be read.
        """
        self.shards, self.faults = _index(paths, lambda path: index(path, self.members), show)
        self._decode = partial(decode_pixels, max_pixels=max_pixels, turned=turned)
        self.blocks = np.array([len(shard) for shard in self.shards], dtype=np.int64)
        self.fingerprint = _fingerprint(self.shards)
        self.contents = sum((Counter(shard.contents) for shard in self.shards), Counter())
        self._ends = np.cumsum(self.blocks)
        self._files = OpenFiles()

    def __len__(self) -> int:
        return int(self._ends[-1])

    def where(self, index: int) -> str:
        """Key and shard of a sample, for messages."""
        shard, row = self._locate(index)
        return f"sample {shard.key(row)!r} of {shard.path}"

    def reduced(self, suffices: Suffices) -> Self:
        """The same samples; JPEGs are decoded at the smallest scale that `suffices` accepts."""
        samples = copy.copy(self)
        samples._decode = partial(self._decode, suffices=suffices)
        return samples

    def read_ahead(self, indices: Sequence[int]) -> None:
        """Start to fetch these samples if they are remote."""
        self._ask(indices, self.members.fields)

    def key(self, index: int) -> str:
        """The key of a sample."""
        shard, row = self._locate(index)
        return shard.key(row)

    def read(self, index: int) -> dict[str, bytes]:
        """The bytes of a sample's members, by field: `image`, or a suffix.

        Raises:
            BadSample: an earlier sample has the same key, a required member is missing, a member is too large, or the
                file cannot be read.
        """
        shard, row = self._locate(index)
        if refused := self._refused(shard.samples[row]):
            raise self.bad(index, *refused)
        return self._members(index, self.members.fields)

    def pixels(self, index: int, members: Mapping[str, bytes]) -> np.ndarray:
        """Decode the image among the members of a sample: uint8 [H, W, 3].

        Raises:
            BadSample: there is no image, or it cannot be decoded.
        """
        if "image" not in members:
            raise self.bad(index, "no_image", "has no member with an image's suffix (.jpg, .png ...)")
        if not members["image"]:
            raise self.bad(index, "empty_image", "has an image of 0 bytes")
        try:
            return self._decode(members["image"])
        except BadImage as error:
            raise self.bad(index, error.cause, str(error)) from error

    def bad(self, index: int, cause: str, detail: str) -> BadSample:
        """The error to raise for a broken sample; `detail` continues the sentence "the sample ..."."""
        shard, row = self._locate(index)
        return BadSample(Broken(str(shard.path), shard.key(row), cause, detail))

    def _refused(self, sample: np.void) -> tuple[str, str] | None:
        """(cause, detail) if the index shows that a sample cannot be used, else None."""
        if sample["duplicate"]:
            return "duplicate_key", "is the key of an earlier sample of this shard"
        absent = next((name for name in self.members.must if not sample[name]["offset"]), None)
        return ("no_member", f"has no .{absent}") if absent else None

    def _members(self, index: int, fields: Sequence[str]) -> dict[str, bytes]:
        """The bytes of those of these members that a sample has; members close together share one read."""
        shard, row = self._locate(index)
        sample, found = shard.samples[row], {}
        if name := _too_large(sample, fields):
            raise self.bad(index, "too_large", f"has {sample[name]['size']:,} bytes of {name}")
        places = {name: sample[name].item() for name in fields if sample[name]["offset"]}
        for start, stop in _spans(sample, fields):
            data = self._bytes(index, shard.path, start, stop - start)
            for name, (offset, size) in places.items():
                if start <= offset <= stop:
                    found[name] = data[offset - start : offset - start + size]
        return found

    def _ask(self, indices: Sequence[int], fields: Sequence[str]) -> None:
        for index in indices:
            shard, row = self._locate(index)
            sample = shard.samples[row]
            if isinstance(shard.path, RemoteFile) and not (self._refused(sample) or _too_large(sample, fields)):
                for start, stop in _spans(sample, fields):
                    shard.path.ask(start, stop - start)

    def _locate(self, index: int) -> tuple[ShardIndex, int]:
        if not 0 <= index < len(self):
            raise IndexError(index)
        number = int(np.searchsorted(self._ends, index, side="right"))
        return self.shards[number], int(index - self._ends[number] + self.blocks[number])

    def _bytes(self, index: int, path: Path | RemoteFile, start: int, size: int) -> bytes:
        if isinstance(path, RemoteFile):
            return path.read(start, size)
        try:
            return self._files.read(path, start, size)
        except OSError as error:
            raise self.bad(index, "unreadable", str(error)) from error


class ShardPairs(Shards[Pair], Pairs):
    """Image-caption pairs of tar shards."""

    members = CAPTIONS

    def __getitem__(self, index: int) -> Pair:
        members = self.read(index)
        captions = self.captions_of(index, members)
        return Pair(self.key(index), self.pixels(index, members), captions)

    def captions(self, limit: int) -> Iterator[str]:
        """At most `limit` captions of samples at equal distances, equally many per sample. Deterministic."""
        return spread_captions(len(self), limit, self.texts, self.read_texts_ahead)

    def read_texts_ahead(self, indices: Sequence[int]) -> None:
        """Start to fetch the captions of these samples if they are remote."""
        self._ask(indices, self.members.may)

    def texts(self, index: int) -> tuple[str, ...]:
        """The captions of a sample; its image is not read.

        Raises:
            BadSample: the sample has no usable caption.
        """
        return self.captions_of(index, self._members(index, self.members.may))

    def uids(self, kept: Callable[[ShardIndex, Callable[[], np.ndarray]], np.ndarray], *, show: bool) -> np.ndarray:
        """The uid of each sample, `uids.UID` [N]: read from its JSON, or else made from shard and key.

        Args:
            kept: returns the uids of a shard from a cache, or calls the given function to read them.

        Raises:
            BadInput: a JSON member cannot be read, so its sample would get a wrong uid.
        """
        starts = (self._ends - self.blocks).tolist()

        def read(number: int) -> np.ndarray:
            return kept(self.shards[number], partial(self._uids, self.shards[number], starts[number]))

        return np.concatenate(_in_any_order([shard.path for shard in self.shards], read, "reading uids", show))

    def _uids(self, shard: ShardIndex, start: int) -> np.ndarray:
        found = []
        for row in range(len(shard)):
            if row % READ_AHEAD == 0:
                self._ask(range(start + row, start + min(row + READ_AHEAD, len(shard))), ("json",))
            fields: Any = {}
            if (refused := self._refused(shard.samples[row])) and refused[0] == "duplicate_key":
                # A duplicate must not get the uid of the first sample with its key.
                found.append(uid_of({}, shard.path.name, f"{shard.key(row)}\0{row}"))
                continue
            try:
                fields = json.loads(self._members(start + row, ("json",)).get("json", b"{}"))
            except (ValueError, RecursionError):
                pass
            except BadSample as error:
                if error.broken.cause == "unreadable":
                    raise BadInput(
                        f"{shard.path} cannot be read ({error.broken.detail}), and data.subset needs the uids in it; "
                        "try again, or leave the shard out"
                    ) from error
            found.append(uid_of(fields if isinstance(fields, dict) else {}, shard.path.name, shard.key(row)))
        return halves(found)

    def captions_of(self, index: int, members: Mapping[str, bytes]) -> tuple[str, ...]:
        """Captions of the `.json` member if it has some, else the `.txt` member as one caption."""
        fields: Any = {}
        try:
            fields = json.loads(members.get("json", b"{}"))
            fields = fields if isinstance(fields, dict) else {}
            found = captions_in(fields, ("captions", "caption"))
            if not found and "txt" in members:
                found = [members["txt"].decode("utf-8-sig")]
        except (ValueError, RecursionError) as error:
            found = [Unread(f"has a caption that cannot be read: {error}")]
        try:
            return usable(found or captions_in(fields))
        except NoCaption as error:
            raise self.bad(index, error.cause, str(error)) from error


def _too_large(sample: np.void, fields: Sequence[str]) -> str:
    """The first of these members that is too large to read; empty if there is none."""
    return next((name for name in fields if sample[name]["size"] > MAX_MEMBER_BYTES), "")


def _spans(sample: np.void, fields: Sequence[str]) -> list[tuple[int, int]]:
    """[start, stop) of the reads for these members of a sample; members at most GAP bytes apart share one read."""
    spans: list[tuple[int, int]] = []
    for offset, size in sorted(sample[name].item() for name in fields if sample[name]["offset"]):
        if spans and offset - spans[-1][1] <= GAP:
            spans[-1] = (spans[-1][0], offset + size)
        else:
            spans.append((offset, offset + size))
    return spans


def _in_any_order(paths: Sequence[Path | RemoteFile], do: Callable[[int], Found], what: str, show: bool) -> list[Found]:
    """Results of `do(place)` for all shards, in the order of the shards.

    The calls are made in a random order, so that processes that start together and share a cache share the work.
    """
    order = random.sample(range(len(paths)), len(paths))
    waits = any(isinstance(path, RemoteFile) for path in paths)
    threads = ThreadPoolExecutor(CONCURRENT if waits else 1)
    try:
        made = zip(order, threads.map(do, order), strict=True)
        found = dict(track(made, what, show, total=len(paths)))
    finally:
        threads.shutdown(cancel_futures=True)
    return [found[place] for place in range(len(paths))]


def _index(
    paths: Sequence[Path | RemoteFile], index: Callable[[Path | RemoteFile], ShardIndex], show: bool
) -> tuple[list[ShardIndex], Sequence[Broken]]:
    """The shards that hold samples, and the problems of all shards.

    Raises:
        BadInput: no shard holds samples.
    """

    def attempt(place: int) -> ShardIndex | BadInput:
        try:
            return index(paths[place])
        except RemoteFault:  # not a fault of the shard itself
            raise
        except BadInput as error:
            return error

    found = _in_any_order(paths, attempt, "indexing shards", show)
    shards: list[ShardIndex] = []
    faults: list[Broken] = []
    for path, shard in zip(paths, found, strict=True):
        if isinstance(shard, BadInput):
            faults.append(Broken(str(path), "", "broken_shard", str(shard)))
            continue
        shards.append(shard)
        why = "is a link, a device or a sparse file, or has an unsafe name"
        faults += [Broken(str(path), name, "ignored_member", why) for name in shard.ignored]
        if shard.damage:
            detail = f"{shard.damage}; its {len(shard)} complete samples are used; download the shard again"
            faults.append(Broken(str(path), "", "cut_shard", detail))
    if not shards:
        raise BadInput(faults[0].detail)
    return shards, faults


def _fingerprint(shards: Sequence[ShardIndex]) -> str:
    """Hash of the shards' names and of every member's position. Folders are left out, so a data set may be moved."""
    digest = hashlib.sha256()
    for shard in shards:
        digest.update(f"{shard.path.name}\0{len(shard)}\0".encode())
        digest.update(shard.samples.tobytes())
    return digest.hexdigest()
