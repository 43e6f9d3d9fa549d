"""Image-caption pairs by number, wherever they come from: tar shards here, a folder with a table of captions in
`folder`, generated scenes in `scenes`."""

from __future__ import annotations

import hashlib
import json
import random
import re
from dataclasses import dataclass
from glob import glob, has_magic
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from silc.data.index_cache import IndexCache, cache_folder
from silc.data.progress import track
from silc.data.tar import MAX_MEMBER_BYTES, Files, ShardIndex, index_shard
from silc.images import MAX_PIXELS, BadImage, decode_rgb
from silc.types import BadInput, Broken

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from PIL import Image

    from silc.data.config import DataConfig

FAULTS = ("broken_shard", "cut_shard", "ignored_member")
"""What can be wrong when a source is opened: a shard left out, one used up to a cut, a member that is no plain file."""


class BadSample(Exception):
    """One pair that cannot be used; the loader counts it by cause and takes another.

    Causes: `no_image` (missing, or no image format), `empty_image` (no bytes), `broken_image`, `too_large`,
    `no_caption`, `empty_caption`, `broken_caption` (no UTF-8, no JSON), `duplicate_key` (its shard has an earlier
    sample of this key), `unsafe_path` (an image outside its folder), `unreadable` (the file system refused).
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
    image: Image.Image  # RGB
    captions: tuple[str, ...]  # at least one, none empty


class Pairs(Protocol):
    """Numbered pairs in blocks that lie together on disk."""

    blocks: np.ndarray
    """Int64 [S], samples per shard; a shard's samples have consecutive numbers."""
    fingerprint: str
    """Hex digest that changes when a number would mean another sample. Identity of the list, not of the content."""
    faults: Sequence[Broken]
    """What was wrong when the source was opened, by the causes of `FAULTS`."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Pair:
        """Raises BadSample when the pair cannot be used."""
        ...

    def captions(self, limit: int) -> Iterator[str]:
        """At most `limit` captions, evenly spread over the source, to train a tokenizer on. Deterministic."""
        ...


def open_pairs(config: DataConfig, *, seed: int, show: bool = False) -> Pairs:
    """The source a run is configured for.

    Args:
        show: show on a terminal how far the opening has come, and say what slows it down.

    Raises:
        BadInput: no shard is named or matches, or one cannot be used.
    """
    if config.source == "scenes":
        from silc.data.scenes import ScenePairs  # scenes are pairs, so they import this module

        return ScenePairs(config.scenes.num, config.scenes.size, seed)
    if not config.train:
        raise BadInput(
            "data.train is empty; name tar shards, for example --data.train '/data/{00000..00331}.tar', or a folder "
            "with captions.jsonl or captions.csv"
        )
    from silc.data.folder import FolderPairs, table_of  # as above

    if table := table_of(Path(config.train).expanduser()):
        return FolderPairs(table, max_pixels=config.max_pixels)
    cache = cache_folder(config.index_cache)
    return ShardPairs(
        expand(config.train),
        max_pixels=config.max_pixels,
        index=IndexCache(cache, speaks=show) if cache else index_shard,
        show=show,
    )


def expand(pattern: str) -> list[Path]:
    """Files of a shard pattern: '{00000..00331}' and '{a,b}' braces, globs, several patterns joined by '::'.

    Raises:
        BadInput: a named file does not exist or a glob matches nothing.
    """
    paths: list[Path] = []
    for part in pattern.split("::"):
        found = [path for name in _expand_braces(part.strip()) for path in _expand_glob(name, pattern)]
        if not found:
            raise BadInput(f"shard pattern {part!r} names no file; a range runs upwards, as in {{00000..00331}}")
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
    path = Path(name).expanduser()
    if path.is_file():
        return [path]
    if path.is_dir():
        raise BadInput(
            f"shard {name!r} is a directory without captions.jsonl or captions.csv; name the tar "
            f"files in it, for example '{name.rstrip('/')}/*.tar'"
        )
    if not has_magic(name):
        raise BadInput(f"shard {name!r} (of {pattern!r}) does not exist; check the path and the range in braces")
    found = sorted(path for path in map(Path, glob(str(path))) if path.is_file())
    if not found:
        raise BadInput(f"shard pattern {name!r} matches no file; check the path, or quote it against the shell")
    return found


class ShardPairs:
    """Pairs of WebDataset or img2dataset tar shards, read by random access."""

    def __init__(
        self,
        paths: Sequence[Path],
        *,
        max_pixels: int = MAX_PIXELS,
        index: Callable[[Path], ShardIndex] = index_shard,
        show: bool = False,
    ) -> None:
        """`index` finds a shard's samples; `show` shows on a terminal how far that has come.

        Raises:
            BadInput: no shard holds a sample.
        """
        self.shards, self.faults = _index([Path(path) for path in paths], index, show)
        self.max_pixels = max_pixels
        self.blocks = np.array([len(shard) for shard in self.shards], dtype=np.int64)
        self.fingerprint = _fingerprint(self.shards)
        self._ends = np.cumsum(self.blocks)
        self._files = Files()

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, index: int) -> Pair:
        shard, row = self._locate(index)
        if shard.samples[row]["duplicate"]:
            raise _bad("duplicate_key", shard, row, "is the key of an earlier sample of this shard")
        captions = self._captions(shard, row)
        if not shard.samples[row]["image"]["offset"]:
            raise _bad("no_image", shard, row, "has a caption but no image")
        data = self._read(shard, row, "image")
        if not data:
            raise _bad("empty_image", shard, row, "has an image of no bytes")
        try:
            image = decode_rgb(data, max_pixels=self.max_pixels)
        except BadImage as error:
            raise _bad(error.cause, shard, row, str(error)) from error
        return Pair(shard.key(row), image, captions)

    def captions(self, limit: int) -> Iterator[str]:
        """At most `limit` captions, the same number from samples at equal distances. Deterministic."""
        return spread_captions(len(self), limit, lambda index: self._captions(*self._locate(index)))

    def _locate(self, index: int) -> tuple[ShardIndex, int]:
        if not 0 <= index < len(self):
            raise IndexError(index)
        number = int(np.searchsorted(self._ends, index, side="right"))
        return self.shards[number], int(index - self._ends[number] + self.blocks[number])

    def _read(self, shard: ShardIndex, row: int, part: str) -> bytes:
        offset, size = shard.samples[row][part].item()
        if size > MAX_MEMBER_BYTES:
            raise _bad("too_large", shard, row, f"has {size:,} bytes of {part}")
        try:
            return self._files.read(shard.path, offset, size)
        except OSError as error:
            raise _bad("unreadable", shard, row, str(error)) from error

    def _captions(self, shard: ShardIndex, row: int) -> tuple[str, ...]:
        """Captions of the `.json` member where it has some, else the `.txt` member as one caption."""
        sample = shard.samples[row]
        found: list[str] = []
        try:
            if sample["json"]["offset"]:
                found = captions_of_json(self._read(shard, row, "json"))
            if not found and sample["txt"]["offset"]:
                found = [self._read(shard, row, "txt").decode()]
        except (ValueError, RecursionError) as error:
            raise _bad("broken_caption", shard, row, f"has a caption that cannot be read: {error}") from error
        if not found:
            raise _bad("no_caption", shard, row, "has no caption")
        captions = clean_captions(found)
        if not captions:
            raise _bad("empty_caption", shard, row, "has only empty captions")
        return captions


def _index(
    paths: Sequence[Path], index: Callable[[Path], ShardIndex], show: bool
) -> tuple[list[ShardIndex], Sequence[Broken]]:
    """The shards that hold samples, and what is wrong with any.

    Raises:
        BadInput: no shard is left.
    """
    found: dict[int, ShardIndex | BadInput] = {}
    # In any order: processes that start together and share a cache so share the work.
    for place in track(random.sample(range(len(paths)), len(paths)), "indexing shards", show):
        try:
            found[place] = index(paths[place])
        except BadInput as error:
            found[place] = error
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


def clean_captions(found: Sequence[str]) -> tuple[str, ...]:
    """Captions without the space around them, nor the empty ones; JSON may escape half a surrogate pair: no text."""
    return tuple(text for caption in found if (text := caption.encode(errors="replace").decode().strip()))


def spread_captions(num_pairs: int, limit: int, captions_of: Callable[[int], Sequence[str]]) -> Iterator[str]:
    """At most `limit` captions, the same number from pairs at equal distances; pairs that have none are passed over."""
    num_visits = min(limit, num_pairs)
    for visit in range(num_visits):
        try:
            captions = captions_of(visit * num_pairs // num_visits)
        except BadSample:
            continue  # the loader will count it
        yield from captions[: limit // num_visits]


def captions_of_json(data: bytes) -> list[str]:
    """Field "captions" (a list) or "caption" (a string) of a sample's JSON; empty if it has neither.

    Raises:
        ValueError: the bytes are no JSON.
    """
    fields = json.loads(data)
    if not isinstance(fields, dict):
        return []
    captions = fields.get("captions")
    if not isinstance(captions, list):
        captions = [fields.get("caption")]
    return [caption for caption in captions if isinstance(caption, str)]


def _bad(cause: str, shard: ShardIndex, row: int, detail: str) -> BadSample:
    return BadSample(Broken(str(shard.path), shard.key(row), cause, detail))


def _fingerprint(shards: Sequence[ShardIndex]) -> str:
    """Names without folders, so that a data set may move, and the place of every member."""
    digest = hashlib.sha256()
    for shard in shards:
        digest.update(f"{shard.path.name}\0{len(shard)}\0".encode())
        digest.update(shard.samples.tobytes())
    return digest.hexdigest()
