"""Image-caption pairs by number, wherever they come from: tar shards here, a folder with a table of captions in
`folder`, generated scenes in `scenes`."""

from __future__ import annotations

import copy
import hashlib
import json
import logging
import os
import random
import re
import shlex
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from glob import glob, has_magic
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from silc.data.captions import NoCaption, Unread, captions_in, usable
from silc.data.index_cache import IndexCache, cache_folder, expanded
from silc.data.progress import track
from silc.data.remote import CONCURRENT, Remote, RemoteFault, RemoteFile, is_address, split_joined, without_secrets
from silc.data.span_cache import SpanCache
from silc.data.tables import table_of, tables_in
from silc.data.tar import MAX_MEMBER_BYTES, Files, ShardIndex, index_shard
from silc.images import MAX_PIXELS, BadImage, decode_pixels, is_image_name
from silc.types import BadInput, Broken

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from silc.data.config import DataConfig
    from silc.images import Suffices

log = logging.getLogger(__name__)
FAULTS = ("broken_shard", "cut_shard", "ignored_member")
"""What can be wrong when a source is opened: a shard left out, one used up to a cut, a member that is no plain file."""
CAPTIONS = ("txt", "json")
MEMBERS = ("image", *CAPTIONS)
GAP = 1 << 16
"""Members of a sample with no more bytes than this between them are read at once."""
LOOKED_AT = 10_000
"""Files of a folder that are looked at to say what it holds."""
READ_AHEAD = 256
"""Captions that are fetched at a time."""


class BadSample(Exception):
    """One pair that cannot be used; the loader counts it by cause and takes another.

    Causes: `no_image` (missing, or no image format), `empty_image` (no bytes), `broken_image`, `too_large`,
    `no_caption`, `empty_caption`, `broken_caption` (no UTF-8, no JSON, no text, a row with too many columns),
    `duplicate_key` (its shard has an earlier sample of this key), `unsafe_path` (an image outside its folder),
    `unreadable` (the file system refused).
    """

    def __init__(self, broken: Broken) -> None:
        super().__init__(broken)
        self.broken = broken

    def __str__(self) -> str:
        return f"{self.broken.cause}: {self.broken.shard}: {self.broken.key!r} {self.broken.detail}"


@dataclass(frozen=True)
class Pair:
    """An image and the captions it has, of which each visit takes one."""

    key: str
    pixels: np.ndarray  # uint8 [H, W, 3], RGB
    captions: tuple[str, ...]  # at least one, none empty


class Pairs(Protocol):
    """Numbered pairs in blocks that lie together on disk."""

    blocks: np.ndarray
    """Int64 [S], samples per shard; a shard's samples have consecutive numbers."""
    fingerprint: str
    """Hex digest that changes when a number would mean another sample. Identity of the list, not of the content."""
    faults: Sequence[Broken]
    """What was wrong when the source was opened, by the causes of `FAULTS`."""

    @property
    def contents(self) -> Mapping[str, int]:
        """All that was found when it was opened, by what became of it: members of shards (see `ShardIndex.contents`),
        `rows` of a table."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Pair:
        """Raises BadSample when the pair cannot be used."""
        ...

    def where(self, index: int) -> str:
        """What a pair is called and where it lies, for messages; reads nothing."""
        ...

    def reduced(self, suffices: Suffices) -> Pairs:
        """The same pairs, their images smaller where that is cheaper and `suffices` calls it enough."""
        ...

    def read_ahead(self, indices: Sequence[int]) -> None:
        """Told what will be asked for next, each once; where reading takes long it begins now, for all of them."""
        ...

    def captions(self, limit: int) -> Iterator[str]:
        """At most `limit` captions, evenly spread over the source, to train a tokenizer on. Deterministic."""
        ...


def open_pairs(config: DataConfig, *, seed: int, show: bool = False) -> Pairs:
    """The source a run is configured for.

    Args:
        show: show on a terminal how far the opening has come, and say what slows it down.

    Raises:
        BadInput: no shard is named or matches, or one cannot be used; RemoteFault, if that is for the network.
    """
    if config.source == "scenes":
        from silc.data.scenes import ScenePairs  # scenes are pairs, so they import this module

        return ScenePairs(config.scenes.num, config.scenes.size, seed)
    if not config.train:
        raise BadInput(
            "data.train is empty; name tar shards, for example --data.train '/data/{00000..00331}.tar', or a folder "
            "with captions.jsonl or captions.csv"
        )
    from silc.data.folder import FolderPairs  # as above

    turned = config.exif_orientation == "apply"
    named = expanded(config.train)
    if table := table_of(named):
        if named.is_dir() and (others := [file.name for file in tables_in(named) if file != table]):
            log.warning("%s is read; beside it are %s, which are not", table, ", ".join(others))
        root = expanded(config.image_root) if config.image_root else None
        return FolderPairs(table, image_root=root, max_pixels=config.max_pixels, turned=turned)
    if config.image_root:
        raise BadInput(
            f"data.image_root {config.image_root} is for a table of captions, and data.train names none; shards hold "
            "their images, leave it out"
        )
    cache, kept = cache_folder(config.index_cache), cache_folder(config.remote_cache, "shards")
    spans = SpanCache(kept, int(config.remote_cache_gb * 1e9)) if kept else None
    return ShardPairs(
        expand(config.train, Remote(patience=config.remote_patience, cache=spans)),
        max_pixels=config.max_pixels,
        turned=turned,
        index=IndexCache(cache, speaks=show) if cache else index_shard,
        show=show,
    )


def expand(pattern: str, remote: Remote | None = None) -> list[Path | RemoteFile]:
    """Files of a shard pattern: '{00000..00331}' and '{a,b}' braces, globs, several patterns joined by '::'.

    Args:
        remote: how addresses are read.

    Raises:
        BadInput: a named file does not exist or a glob matches nothing. That an address has no file shows when it is
            first read.
    """
    remote = remote or Remote()
    paths: list[Path | RemoteFile] = []
    for part in split_joined(pattern):
        found: list[Path | RemoteFile] = []
        for name in _expand_braces(part):
            found += remote.files(name) if is_address(name) else _expand_glob(name, without_secrets(pattern))
        if not found:
            named = without_secrets(part)
            raise BadInput(f"shard pattern {named!r} names no file; a range runs upwards, as in {{00000..00331}}")
        paths += found
    return paths


def _expand_braces(name: str) -> Iterator[str]:
    for braces in re.finditer(r"\{([^{}]*)\}", name):
        before, inside, after = name[: braces.start()], braces[1], name[braces.end() :]
        if bounds := re.fullmatch(r"(\d+)\.\.(\d+)", inside):
            first, last = bounds.groups()
            choices: Any = (str(i).zfill(len(first)) for i in range(int(first), int(last) + 1))
        elif "," in inside:
            choices = inside.split(",")
        else:
            continue
        for choice in choices:
            yield from _expand_braces(before + choice + after)
        return
    yield name


def _expand_glob(name: str, pattern: str) -> list[Path]:
    path = expanded(name)
    if path.is_file():
        return [path]
    if path.is_dir():
        raise BadInput(f"shard {name!r} is a directory without captions.jsonl or captions.csv; {_inside(path)}")
    if os.path.exists(path):
        raise BadInput(f"shard {name!r} is a pipe or a device, and shards are read by offset; name a file")
    if not has_magic(name):
        raise BadInput(f"shard {name!r} (of {pattern!r}) does not exist; check the path and the range in braces")
    found = sorted(path for path in map(Path, glob(str(path))) if path.is_file())
    if not found:
        raise BadInput(f"shard pattern {name!r} matches no file; check the path, or quote it against the shell")
    return found


def _inside(folder: Path) -> str:
    """What to do with a folder that has no table."""
    files = sorted(file for file in islice(folder.glob("**/*"), LOOKED_AT) if file.is_file())
    if any(file.suffix.lower() == ".tar" for file in files):
        return f"name the tar files in it, for example '{folder}/*.tar'"
    if packed := next((file for file in files if re.search(r"\.(tgz|tar\.\w+)$", file.name.lower())), None):
        return f"{packed.name} in it is compressed: unpack it (`gunzip`, `zstd -d`) to .tar and name the tar files"
    if table := next((file for file in files if file.suffix.lower() in (".csv", ".tsv", ".jsonl")), None):
        return f"{table.name} in it is one by its name: give {table} itself"
    images = {file.with_suffix("") for file in files if is_image_name(file.name)}
    texts = (file for file in files if file.suffix.lower() in (".txt", ".json"))
    if beside := next((file for file in texts if file.with_suffix("") in images), None):
        each, place = ' for d in */; do tar -cf "${d%/}.tar" -C "$d" .; done', shlex.quote(str(folder))
        pack = f"tar -cf {place}.tar -C {place} ." if beside.parent == folder else f"cd {place} &&{each}"
        return (
            "its images have a .txt or .json each (img2dataset's output_format `files`): put each folder into a tar, "
            f"for example `{pack}`, and name the tar files"
        )
    held = "holds images, but says nowhere what they show" if images else "holds no images and no tar files"
    return f"it {held}; needed is captions.csv with a first line 'file_name,caption', or tar files"


class ShardPairs:
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
        self.contents: Mapping[str, int] = sum((Counter(shard.contents) for shard in self.shards), Counter())
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


def spread_captions(
    num_pairs: int,
    limit: int,
    captions_of: Callable[[int], Sequence[str]],
    read_ahead: Callable[[Sequence[int]], None] = lambda _: None,
) -> Iterator[str]:
    """At most `limit` captions, the same number from pairs at equal distances; pairs that have none are passed over."""
    num_visits = min(limit, num_pairs)
    for visit in range(num_visits):
        if visit % READ_AHEAD == 0:
            some = range(visit, min(visit + READ_AHEAD, num_visits))
            read_ahead([each * num_pairs // num_visits for each in some])
        try:
            captions = captions_of(visit * num_pairs // num_visits)
        except BadSample:
            continue  # the loader will count it
        yield from captions[: limit // num_visits]


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
