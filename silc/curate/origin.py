"""The identity of a shard, so that its scores are not confused with those of another shard of the same name."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from silc.data.remote import RemoteFile


def origin_of(shard: Path | RemoteFile) -> dict[str, Any]:
    """The identity that a file of scores records: the content hash of a local shard, the version of a remote one.

    Raises:
        OSError: a local shard cannot be read; RemoteFault, if a remote one cannot.
    """
    if not isinstance(shard, Path):
        size, tag = shard.version()
        return {"path": str(shard), "bytes": size, "tag": tag}
    found = shard.stat()
    return {"path": str(shard), "bytes": found.st_size, "modified": found.st_mtime_ns, "sha256": _digest(shard)}


def is_origin(shard: Path | RemoteFile, said: Mapping[str, Any]) -> bool:
    """True if `said`, an identity that was recorded earlier, is the identity of this shard.

    A local shard is hashed only if its time of change differs, because it may be a copy. Equal sizes prove little: tar
    sizes are multiples of 10,240 bytes. Older files of scores record only the size.
    """
    if not isinstance(shard, Path):
        there: bool = said["path"] == str(shard)
        if said["bytes"] is None:
            return there
        size, tag = shard.version()
        return bool((said["bytes"], said.get("tag")) == (size, tag)) and (there or bool(tag))
    found = shard.stat()
    if said["bytes"] != found.st_size or "tag" in said:
        return False
    return bool(said.get("modified", found.st_mtime_ns) == found.st_mtime_ns) or said["sha256"] == _digest(shard)


def _digest(path: Path) -> str:
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
