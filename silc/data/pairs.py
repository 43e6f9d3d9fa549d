"""Image-caption pairs by number, wherever they come from: tar shards here, generated scenes in `scenes`."""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections import Counter
from dataclasses import dataclass
from glob import glob, has_magic
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from silc.data.tar import MAX_MEMBER_BYTES, Files, ShardIndex, index_shard
from silc.images import MAX_PIXELS, BadImage, decode_rgb
from silc.types import BadInput

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from PIL import Image

    from silc.data.config import DataConfig

log = logging.getLogger(__name__)


class BadSample(Exception):
    """One pair that cannot be used; the loader counts it by cause and takes another.

    Causes: `no_image` (missing, or no image format), `broken_image`, `too_large`, `no_caption`, `empty_caption`,
    `broken_caption` (no UTF-8, no JSON), `unreadable` (the file system refused).
    """

    def __init__(self, cause: str, detail: str) -> None:
        super().__init__(cause, detail)
        self.cause = cause
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.cause}: {self.detail}"


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
    faults: Mapping[str, int]
    """What was wrong when the source was opened, by cause (`cut_shard`, `ignored_member`); empty if nothing."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Pair:
        """Raises BadSample when the pair cannot be used."""
        ...

    def captions(self, limit: int) -> Iterator[str]:
        """At most `limit` captions, evenly spread over the source, to train a tokenizer on. Deterministic."""
        ...


def open_pairs(config: DataConfig, *, seed: int) -> Pairs:
    """The source a run is configured for.

    Raises:
        BadInput: no shard is named or matches, or one cannot be used.
    """
    if config.source == "scenes":
        from silc.data.scenes import ScenePairs  # scenes are pairs, so they import this module

        return ScenePairs(config.scenes.num, config.scenes.size, seed)
    if not config.train:
        raise BadInput("data.train is empty; name tar shards, for example --data.train '/data/{00000..00331}.tar'")
    return ShardPairs(expand(config.train), max_pixels=config.max_pixels)


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
        raise BadInput(f"shard {name!r} is a directory; name its files, for example '{name.rstrip('/')}/*.tar'")
    if not has_magic(name):
        raise BadInput(f"shard {name!r} (of {pattern!r}) does not exist; check the path and the range in braces")
    found = sorted(path for path in map(Path, glob(str(path))) if path.is_file())
    if not found:
        raise BadInput(f"shard pattern {name!r} matches no file; check the path, or quote it against the shell")
    return found


class ShardPairs:
    """Pairs of WebDataset or img2dataset tar shards, read by random access."""

    def __init__(self, paths: Sequence[Path], *, max_pixels: int = MAX_PIXELS) -> None:
        self.shards = [index_shard(Path(path)) for path in paths]
        self.max_pixels = max_pixels
        self.blocks = np.array([len(shard) for shard in self.shards], dtype=np.int64)
        self.fingerprint = _fingerprint(self.shards)
        faults: Counter[str] = Counter()
        for shard in self.shards:
            if shard.num_ignored:
                faults["ignored_member"] += shard.num_ignored
                log.warning("%s: %d links, devices or unsafe names ignored", shard.path, shard.num_ignored)
            if shard.damage:
                faults["cut_shard"] += 1
                log.warning(
                    "%s: %s; its %d whole samples are used, fetch it again", shard.path, shard.damage, len(shard)
                )
        self.faults: Mapping[str, int] = faults
        self._ends = np.cumsum(self.blocks)
        self._files = Files()

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, index: int) -> Pair:
        shard, row = self._locate(index)
        captions = self._captions(shard, row)
        if not shard.samples[row]["image"]["offset"]:
            raise BadSample("no_image", f"{_name(shard, row)} has a caption but no image")
        data = self._read(shard, row, "image")
        try:
            image = decode_rgb(data, max_pixels=self.max_pixels)
        except BadImage as error:
            raise BadSample(error.cause, f"{_name(shard, row)}: {error}") from error
        return Pair(shard.key(row), image, captions)

    def captions(self, limit: int) -> Iterator[str]:
        """At most `limit` captions, the same number from samples at equal distances. Deterministic."""
        num_visits = min(limit, len(self))
        for visit in range(num_visits):
            try:
                captions = self._captions(*self._locate(visit * len(self) // num_visits))
            except BadSample:
                continue  # the loader will count it
            yield from captions[: limit // num_visits]

    def _locate(self, index: int) -> tuple[ShardIndex, int]:
        if not 0 <= index < len(self):
            raise IndexError(index)
        number = int(np.searchsorted(self._ends, index, side="right"))
        return self.shards[number], int(index - self._ends[number] + self.blocks[number])

    def _read(self, shard: ShardIndex, row: int, part: str) -> bytes:
        offset, size = shard.samples[row][part].item()
        if size > MAX_MEMBER_BYTES:
            raise BadSample("too_large", f"{_name(shard, row)}.{part} has {size:,} bytes")
        try:
            return self._files.read(shard.path, offset, size)
        except OSError as error:
            raise BadSample("unreadable", f"{_name(shard, row)}: {error}") from error

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
            raise BadSample("broken_caption", f"{_name(shard, row)}: {error}") from error
        if not found:
            raise BadSample("no_caption", f"{_name(shard, row)} has no caption")
        # JSON may escape half a surrogate pair, which is no text.
        captions = tuple(text for caption in found if (text := caption.encode(errors="replace").decode().strip()))
        if not captions:
            raise BadSample("empty_caption", f"{_name(shard, row)} has only empty captions")
        return captions


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


def _name(shard: ShardIndex, row: int) -> str:
    return f"{shard.path}: {shard.key(row)!r}"


def _fingerprint(shards: Sequence[ShardIndex]) -> str:
    """Names without folders, so that a data set may move, and the place of every member."""
    digest = hashlib.sha256()
    for shard in shards:
        digest.update(f"{shard.path.name}\0{len(shard)}\0".encode())
        digest.update(shard.samples.tobytes())
    return digest.hexdigest()
