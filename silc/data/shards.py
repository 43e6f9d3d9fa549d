"""Image-caption pairs of WebDataset or img2dataset tar shards, read by random access."""

from __future__ import annotations

import copy
import hashlib
import json
import random
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from silc.data.captions import NoCaption, Unread, captions_in, usable
from silc.data.pairs import BadSample, Pair, Pairs, spread_captions
from silc.data.progress import track
from silc.data.remote import CONCURRENT, RemoteFault, RemoteFile
from silc.data.tar import MAX_MEMBER_BYTES, Files, ShardIndex, index_shard
from silc.images import MAX_PIXELS, BadImage, decode_pixels
from silc.types import BadInput, Broken

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from silc.images import Suffices

CAPTIONS = ("txt", "json")
MEMBERS = ("image", *CAPTIONS)
GAP = 1 << 16
"""Members of a sample with no more bytes than this between them are read at once."""


class ShardPairs(Pairs):
    """Pairs of WebDataset or img2dataset tar shards, read by random access."""

    def __init__(
        self,
        paths: Sequence[Path | RemoteFile],
        *,
        max_pixels: int = MAX_PIXELS,
        turned: bool = False,
        index: Callable[[Path | RemoteFile], ShardIndex] = index_shard,
        show: bool = False,
    ) -> None:
        """`index` finds a shard's samples; `show` shows on a terminal how far that has come.

        Raises:
            BadInput: no shard holds a sample; RemoteFault, if one cannot be had.
        """
        self.shards, self.faults = _index(paths, index, show)
        self._decode = partial(decode_pixels, max_pixels=max_pixels, turned=turned)
        self.blocks = np.array([len(shard) for shard in self.shards], dtype=np.int64)
        self.fingerprint = _fingerprint(self.shards)
        self.contents = sum((Counter(shard.contents) for shard in self.shards), Counter())
        self._ends = np.cumsum(self.blocks)
        self._files = Files()

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, index: int) -> Pair:
        shard, row = self._locate(index)
        if shard.samples[row]["duplicate"]:
            raise _bad("duplicate_key", shard, row, "is the key of an earlier sample of this shard")
        members = self._members(shard, row, MEMBERS)
        captions = self._captions(shard, row, members)
        if "image" not in members:
            raise _bad("no_image", shard, row, "has a caption but no member with an image's suffix (.jpg, .png ...)")
        if not members["image"]:
            raise _bad("empty_image", shard, row, "has an image of no bytes")
        try:
            pixels = self._decode(members["image"])
        except BadImage as error:
            raise _bad(error.cause, shard, row, str(error)) from error
        return Pair(shard.key(row), pixels, captions)

    def where(self, index: int) -> str:
        """Key and shard."""
        shard, row = self._locate(index)
        return f"sample {shard.key(row)!r} of {shard.path}"

    def captions(self, limit: int) -> Iterator[str]:
        """At most `limit` captions, the same number from samples at equal distances. Deterministic."""

        def captions_of(index: int) -> Sequence[str]:
            shard, row = self._locate(index)
            return self._captions(shard, row, self._members(shard, row, CAPTIONS))

        return spread_captions(len(self), limit, captions_of, lambda indices: self._ask(indices, CAPTIONS))

    def reduced(self, suffices: Suffices) -> ShardPairs:
        """The same pairs, JPEGs decoded at a smaller scale that `suffices`."""
        pairs = copy.copy(self)
        pairs._decode = partial(self._decode, suffices=suffices)
        return pairs

    def read_ahead(self, indices: Sequence[int]) -> None:
        """Begin to fetch remote samples."""
        self._ask(indices, MEMBERS)

    def _ask(self, indices: Sequence[int], parts: Sequence[str]) -> None:
        for index in indices:
            shard, row = self._locate(index)
            sample = shard.samples[row]
            if isinstance(shard.path, RemoteFile) and not sample["duplicate"] and not _too_large(sample, parts):
                for start, stop in _spans(sample, parts):
                    shard.path.ask(start, stop - start)

    def _locate(self, index: int) -> tuple[ShardIndex, int]:
        if not 0 <= index < len(self):
            raise IndexError(index)
        number = int(np.searchsorted(self._ends, index, side="right"))
        return self.shards[number], int(index - self._ends[number] + self.blocks[number])

    def _members(self, shard: ShardIndex, row: int, parts: Sequence[str]) -> dict[str, bytes]:
        """The members a sample has of these, by one read where they lie together."""
        sample, found = shard.samples[row], {}
        if part := _too_large(sample, parts):
            raise _bad("too_large", shard, row, f"has {sample[part]['size']:,} bytes of {part}")
        places = {part: sample[part].item() for part in parts if sample[part]["offset"]}
        for start, stop in _spans(sample, parts):
            data = self._read(shard, row, start, stop - start)
            for part, (offset, size) in places.items():
                if start <= offset <= stop:
                    found[part] = data[offset - start : offset - start + size]
        return found

    def _read(self, shard: ShardIndex, row: int, start: int, size: int) -> bytes:
        if isinstance(shard.path, RemoteFile):
            return shard.path.read(start, size)
        try:
            return self._files.read(shard.path, start, size)
        except OSError as error:
            raise _bad("unreadable", shard, row, str(error)) from error

    def _captions(self, shard: ShardIndex, row: int, members: dict[str, bytes]) -> tuple[str, ...]:
        """Captions of the `.json` member where it has some, else the `.txt` member as one caption."""
        fields: dict[str, Any] = {}
        try:
            fields = json_object(members["json"]) if "json" in members else {}
            found = captions_in(fields, ("captions", "caption"))
            if not found and "txt" in members:
                found = [members["txt"].decode("utf-8-sig")]
        except (ValueError, RecursionError) as error:
            found = [Unread(f"has a caption that cannot be read: {error}")]
        try:
            return usable(found or captions_in(fields))
        except NoCaption as error:
            raise _bad(error.cause, shard, row, str(error)) from error


def _too_large(sample: np.void, parts: Sequence[str]) -> str:
    """The first of these members that is too large to be read; empty if none is."""
    return next((part for part in parts if sample[part]["size"] > MAX_MEMBER_BYTES), "")


def _spans(sample: np.void, parts: Sequence[str]) -> list[tuple[int, int]]:
    """[start, stop) of the reads that get these members of a sample: one, where no more than GAP is between them."""
    spans: list[tuple[int, int]] = []
    for offset, size in sorted(sample[part].item() for part in parts if sample[part]["offset"]):
        if spans and offset - spans[-1][1] <= GAP:
            spans[-1] = (spans[-1][0], offset + size)
        else:
            spans.append((offset, offset + size))
    return spans


def _index(
    paths: Sequence[Path | RemoteFile], index: Callable[[Path | RemoteFile], ShardIndex], show: bool
) -> tuple[list[ShardIndex], Sequence[Broken]]:
    """The shards that hold samples, and what is wrong with any.

    Raises:
        BadInput: no shard is left.
    """

    def attempt(place: int) -> tuple[int, ShardIndex | BadInput]:
        try:
            return place, index(paths[place])
        except RemoteFault:  # the shard may be whole
            raise
        except BadInput as error:
            return place, error

    # In any order: processes that start together and share a cache so share the work.
    order = random.sample(range(len(paths)), len(paths))
    with _side_by_side(any(isinstance(path, RemoteFile) for path in paths)) as each:
        found = dict(track(each(attempt, order), "indexing shards", show, total=len(paths)))
    shards: list[ShardIndex] = []
    faults: list[Broken] = []
    for place, path in enumerate(paths):
        shard = found[place]
        if isinstance(shard, BadInput):
            faults.append(Broken(str(path), "", "broken_shard", str(shard)))
            continue
        shards.append(shard)
        why = "is a link, a device or a sparse file, or has an unsafe name"
        faults += [Broken(str(path), name, "ignored_member", why) for name in shard.ignored]
        if shard.damage:
            detail = f"{shard.damage}; its {len(shard)} whole samples are used, fetch it again"
            faults.append(Broken(str(path), "", "cut_shard", detail))
    if not shards:
        raise BadInput(faults[0].detail)
    return shards, faults


@contextmanager
def _side_by_side(waits: bool) -> Iterator[Callable[..., Iterator[Any]]]:
    """`map`; of several threads for what waits for a network."""
    if not waits:
        yield map
        return
    threads = ThreadPoolExecutor(CONCURRENT)
    try:
        yield threads.map
    finally:
        threads.shutdown(cancel_futures=True)


def json_object(data: bytes) -> dict[str, Any]:
    """The object in a JSON file; an empty one if it holds something else.

    Raises:
        ValueError: the bytes are no JSON.
    """
    fields = json.loads(data)
    return fields if isinstance(fields, dict) else {}


def _bad(cause: str, shard: ShardIndex, row: int, detail: str) -> BadSample:
    return BadSample(Broken(str(shard.path), shard.key(row), cause, detail))


def _fingerprint(shards: Sequence[ShardIndex]) -> str:
    """Names without folders, so that a data set may move, and the place of every member."""
    digest = hashlib.sha256()
    for shard in shards:
        digest.update(f"{shard.path.name}\0{len(shard)}\0".encode())
        digest.update(shard.samples.tobytes())
    return digest.hexdigest()
