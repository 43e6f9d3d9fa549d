"""Open the source of pairs that the configuration names, and find the files of a shard pattern."""

from __future__ import annotations

import logging
import os
import re
import shlex
from dataclasses import replace
from glob import glob, has_magic
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from silc.data.chosen import as_asked
from silc.data.folder import FolderPairs
from silc.data.index_cache import IndexCache, cache_folder, expanded
from silc.data.objects import ObjectPairs
from silc.data.remote import Remote, RemoteFile, is_address, split_joined, without_secrets
from silc.data.scenes import ScenePairs
from silc.data.shards import ShardPairs
from silc.data.span_cache import SpanCache
from silc.data.tables import table_of, tables_in
from silc.data.tar import index_shard
from silc.errors import BadInput
from silc.images import is_image_name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from silc.data.config import DataConfig
    from silc.data.pairs import Pairs

log = logging.getLogger(__name__)
LOOKED_AT = 10_000
"""Maximum number of files of a folder that are examined for an error message."""


def open_pairs(config: DataConfig, *, seed: int, show: bool = False) -> Pairs:
    """Open the source that the configuration names.

    Args:
        show: show progress on a terminal and warn about causes of slow loading.

    Raises:
        BadInput: no shard is named or matches, or a shard cannot be used; RemoteFault, if the network is the cause.
    """
    if config.generated is not None:
        return as_asked(GENERATED[config.source](config.generated, seed), replace(config, subset=""))
    if config.train.strip() and not all(split_joined(config.train)):
        raise BadInput(f"data.train {without_secrets(config.train)!r} has an empty part; leave out a '::'")
    if not config.train.strip():
        raise BadInput(
            "data.train is empty; name tar shards, for example --data.train '/data/{00000..00331}.tar', or a folder "
            "with captions.jsonl or captions.csv"
        )
    pairs = next(pairs for open_them in KINDS if (pairs := open_them(config, show)) is not None)
    return as_asked(pairs, config, show=show)


def _table(config: DataConfig, show: bool) -> Pairs | None:
    """Pairs of a folder with a table of captions, or of such a table; None if `data.train` names neither."""
    named = expanded(config.train)
    if not (table := table_of(named)):
        return None
    if named.is_dir() and (others := [file.name for file in tables_in(named) if file != table]):
        log.warning("%s is read, and these tables beside it are not: %s", table, ", ".join(others))
    root = expanded(config.image_root) if config.image_root else None
    turned = config.exif_orientation == "apply"
    return FolderPairs(table, image_root=root, max_pixels=config.max_pixels, turned=turned)


def _shards(config: DataConfig, show: bool) -> Pairs:
    """Pairs of tar shards."""
    if config.image_root:
        raise BadInput(
            f"data.image_root {config.image_root} is for a table of captions, and data.train names none; shards hold "
            "their own images, so leave data.image_root out"
        )
    cache, kept = cache_folder(config.index_cache), cache_folder(config.remote_cache, "shards")
    spans = SpanCache(kept, int(config.remote_cache_gb * 1e9)) if kept else None
    return ShardPairs(
        expand(config.train, Remote(patience=config.remote_patience, cache=spans)),
        max_pixels=config.max_pixels,
        turned=config.exif_orientation == "apply",
        index=IndexCache(cache, speaks=show) if cache else index_shard,
        show=show,
    )


GENERATED: Mapping[str, Callable[[Any, int], Pairs]] = {
    "scenes": lambda section, seed: ScenePairs(section.num, section.size, seed),
    "objects": ObjectPairs,
}
"""Generated sources by their name in `data.source`: functions of (config section of that name, seed)."""
KINDS: Sequence[Callable[[DataConfig, bool], Pairs | None]] = (_table, _shards)
"""Functions that open `data.train`, tried in order. All but the last return None for a path of another kind."""


def expand(pattern: str, remote: Remote | None = None) -> list[Path | RemoteFile]:
    """Files of a shard pattern: '{00000..00331}' and '{a,b}' braces, globs, several patterns joined by '::'.

    Args:
        remote: settings to read remote addresses.

    Raises:
        BadInput: a named file does not exist or a glob matches nothing. A missing remote file raises only when it is
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
            raise BadInput(f"shard pattern {named!r} names no file; a range must go upwards, as in {{00000..00331}}")
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
    """Advice, for an error message, about a folder that has no table."""
    files = sorted(file for file in islice(folder.glob("**/*"), LOOKED_AT) if file.is_file())
    if any(file.suffix.lower() == ".tar" for file in files):
        return f"name the tar files in it, for example '{folder}/*.tar'"
    if packed := next((file for file in files if re.search(r"\.(tgz|tar\.\w+)$", file.name.lower())), None):
        return f"{packed.name} in it is compressed: unpack it (`gunzip`, `zstd -d`) to .tar and name the tar files"
    if table := next((file for file in files if file.suffix.lower() in (".csv", ".tsv", ".jsonl")), None):
        return f"{table.name} in it seems to be a table: name {table} itself"
    images = {file.with_suffix("") for file in files if is_image_name(file.name)}
    texts = (file for file in files if file.suffix.lower() in (".txt", ".json"))
    if beside := next((file for file in texts if file.with_suffix("") in images), None):
        each, place = ' for d in */; do tar -cf "${d%/}.tar" -C "$d" .; done', shlex.quote(str(folder))
        pack = f"tar -cf {place}.tar -C {place} ." if beside.parent == folder else f"cd {place} &&{each}"
        return (
            "its images have a .txt or .json each (img2dataset's output_format `files`): put each folder into a tar, "
            f"for example `{pack}`, and name the tar files"
        )
    held = "holds images, but no captions" if images else "holds no images and no tar files"
    return f"it {held}; add captions.csv with the first line 'file_name,caption', or name tar files"
