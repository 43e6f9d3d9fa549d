"""Where the samples of each shard are, kept between runs, so that a shard is walked once.

A file per shard, named by the shard's path and valid for its size and time of change (its ETag, where it is remote).
numpy's archives have a CRC-32 of each array, and it appears whole by a rename: what is damaged, torn or of another
version is walked again. No pickle.
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
"""Counted up when `index_shard` finds other samples in the same file."""

UIDS = 2
"""Counted up when a shard's samples have other uids."""


def cache_folder(setting: str, name: str = "index") -> Path | None:
    """The folder a configuration asks for: a path, one in the user's own cache for an empty setting, None for `off`.

    None, too, for a user who has no home, as in many containers: a folder that others can guess is no place for it.
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
    """A path with its `~` spelt out; as it is, where there is no such home."""
    try:
        return Path(name).expanduser()
    except RuntimeError:
        return Path(name)


class IndexCache:
    """`index_shard` with a memory. Any number of processes may use one folder at a time."""

    def __init__(self, folder: Path, *, speaks: bool = False) -> None:
        """`speaks`: say so when the folder cannot be written, which costs time at each start and nothing else."""
        self.folder = folder
        self.speaks = speaks

    def __call__(self, path: Path | RemoteFile, members: Members = CAPTIONS) -> ShardIndex:
        """The index of a shard; what `index_shard` raises is raised, and not kept."""
        path = path.absolute() if isinstance(path, Path) else path
        # Those of captions were kept before there were others.
        name = str(path) if members == CAPTIONS else f"{path}:{':'.join(members.must)}+{':'.join(members.may)}"
        file = self.folder / f"{hashlib.sha256(os.fsencode(name)).hexdigest()[:32]}.npz"
        try:
            about = {"version": VERSION, "path": name, **_state(path)}
        except OSError:
            return index_shard(path, members)  # which has words for it
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
                log.warning("shards are walked at each start: %s cannot be written (%s)", self.folder, error.strerror)
            self.speaks = False


def kept_uids(folder: Path | None, shard: ShardIndex, read: Callable[[], np.ndarray]) -> np.ndarray:
    """The uids of a shard's samples, which `read` takes out of their JSON; kept beside the shard's index.

    Whatever changes the shard's size, time of change or index has another file; one that is damaged is written anew.
    """
    if folder is None:
        return read()
    try:
        about = json.dumps([UIDS, str(shard.path), _state(shard.path)]).encode()
    except OSError:
        return read()
    digest = hashlib.sha256(b"\0".join((about, shard.samples.tobytes(), shard.names)))
    file = folder / f"{digest.hexdigest()[:32]}.uids.npy"
    with suppress(Exception):  # as of an index: whatever is raised, it is not there, or not whole
        found: np.ndarray = np.load(file, allow_pickle=False)
        if found.dtype == UID and len(found) == len(shard):
            return found
    found = read()
    with suppress(OSError), whole(file) as beside, beside.open("wb") as handle:
        np.save(handle, found)
    return found


def _state(path: Path | RemoteFile) -> dict[str, Any]:
    """What changes when a shard does."""
    if isinstance(path, RemoteFile):
        size, tag = path.version()
        return {"size": size, "tag": tag}
    status = path.stat()
    return {"size": status.st_size, "mtime_ns": status.st_mtime_ns}


def _load(file: Path, about: Mapping[str, Any], path: Path | RemoteFile, members: Members) -> ShardIndex | None:
    """What a file holds, if it is whole and about this very shard."""
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
    except Exception:  # whatever a damaged archive makes its readers raise: it is not there, or not whole
        return None
