"""Cache of the shards' indexes between runs, so that each shard is scanned only once.

There is one file per shard, named by a hash of the shard's path, and valid for the shard's size and time of change (its
ETag, if it is remote). The file is a numpy archive with a CRC-32 of each array, and is written by a rename. If it is
damaged, incomplete or of another version, the shard is scanned again. It contains no pickle.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from silc.data.remote import RemoteFile
from silc.data.tar import CAPTIONS, Members, ShardIndex, index_shard
from silc.data.uids import UID
from silc.durable import whole

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

log = logging.getLogger(__name__)

VERSION = 2
"""Increase this when `index_shard` changes and finds other samples in the same file."""

UIDS = 2
"""Increase this when the code changes and the same samples get other uids."""


def cache_folder(setting: str, name: str = "index") -> Path | None:
    """The cache folder for a setting: the path that it names, a folder in the user's cache if empty, None for `off`.

    Also None for a user without a home, as in many containers: a shared folder with a known name is not safe.
    """
    if setting == "off":
        return None
    if setting:
        return expanded(setting)
    try:
        base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    except RuntimeError:
        return None
    return Path(base) / "silc" / name


def expanded(name: str) -> Path:
    """The path with `~` expanded; unchanged if there is no such home."""
    try:
        return Path(name).expanduser()
    except RuntimeError:
        return Path(name)


class IndexCache:
    """`index_shard` with a cache on disk. Several processes may use one folder at the same time."""

    def __init__(self, folder: Path, *, speaks: bool = False) -> None:
        """`speaks`: log a warning if the folder cannot be written. Then each start is slower, with the same result."""
        self.folder = folder
        self.speaks = speaks

    def __call__(self, path: Path | RemoteFile, members: Members = CAPTIONS) -> ShardIndex:
        """The index of a shard. Errors of `index_shard` are raised and not cached."""
        path = path.absolute() if isinstance(path, Path) else path
        # The path alone names the index of captions: those files are older than other `Members`.
        name = str(path) if members == CAPTIONS else f"{path}:{':'.join(members.must)}+{':'.join(members.may)}"
        file = self.folder / f"{hashlib.sha256(os.fsencode(name)).hexdigest()[:32]}.npz"
        try:
            about = {"version": VERSION, "path": name, **_state(path)}
        except OSError:
            return index_shard(path, members)  # it raises an error with a clear message
        found = _load(file, about, path, members)
        if found is None:
            found = index_shard(path, members)
            self._save(file, found, about)
        return found

    def _save(self, file: Path, index: ShardIndex, about: Mapping[str, Any]) -> None:
        about = {**about, "ignored": index.ignored, "damage": index.damage, "contents": index.contents}
        arrays = {
            "samples": index.samples.view(np.uint8),
            "names": np.frombuffer(index.names, dtype=np.uint8),
            "name_ends": index.name_ends,
            "about": np.frombuffer(json.dumps(about).encode(), dtype=np.uint8),
        }
        try:
            with whole(file) as beside, beside.open("wb") as handle:
                np.savez(handle, **arrays)  # type: ignore[arg-type]
        except OSError as error:
            if self.speaks:
                log.warning(
                    "shards are scanned again at each start: %s cannot be written (%s)", self.folder, error.strerror
                )
            self.speaks = False


def kept_uids(folder: Path | None, shard: ShardIndex, read: Callable[[], np.ndarray]) -> np.ndarray:
    """The uids of a shard's samples, from the cache or from `read`, which reads them from the samples' JSON.

    The file's name depends on the shard's size, time of change and index. A damaged file is written again.
    """
    if folder is None:
        return read()
    try:
        about = json.dumps([UIDS, str(shard.path), _state(shard.path)]).encode()
    except OSError:
        return read()
    digest = hashlib.sha256(b"\0".join((about, shard.samples.tobytes(), shard.names)))
    file = folder / f"{digest.hexdigest()[:32]}.uids.npy"
    with suppress(Exception):  # any error means, as in `_load`, that the file is absent or damaged
        found: np.ndarray = np.load(file, allow_pickle=False)
        if found.dtype == UID and len(found) == len(shard):
            return found
    found = read()
    with suppress(OSError), whole(file) as beside, beside.open("wb") as handle:
        np.save(handle, found)
    return found


def _state(path: Path | RemoteFile) -> dict[str, Any]:
    """Values that change when the shard changes: size, and tag or time of change."""
    if isinstance(path, RemoteFile):
        size, tag = path.version()
        return {"size": size, "tag": tag}
    status = path.stat()
    return {"size": status.st_size, "mtime_ns": status.st_mtime_ns}


def _load(file: Path, about: Mapping[str, Any], path: Path | RemoteFile, members: Members) -> ShardIndex | None:
    """The index in a file, or None if the file is absent, damaged, or about another shard or version."""
    try:
        with file.open("rb") as handle, np.load(handle, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in ("samples", "names", "name_ends", "about")}
        theirs = json.loads(arrays["about"].tobytes())
        if any(theirs[name] != value for name, value in about.items()):
            return None
        return ShardIndex(
            path,
            arrays["samples"].view(members.dtype),
            arrays["names"].tobytes(),
            arrays["name_ends"],
            tuple(theirs["ignored"]),
            theirs["damage"],
            theirs["contents"],
        )
    except Exception:  # a damaged archive can raise any error: the file is absent or damaged
        return None
