"""What a shard is known by, so that its scores are not taken for another shard's of the same name."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from silc.data.remote import RemoteFile


def origin_of(shard: Path | RemoteFile) -> dict[str, Any]:
    """What is written into the file of a shard's scores: of a local one its content, of a remote one its version.

    Raises:
        OSError: it cannot be read; RemoteFault, if it is remote.
    """
    if not isinstance(shard, Path):
        size, tag = shard.version()
        return {"path": str(shard), "bytes": size, "tag": tag}
    found = shard.stat()
    return {"path": str(shard), "bytes": found.st_size, "modified": found.st_mtime_ns, "sha256": _digest(shard)}


def is_origin(shard: Path | RemoteFile, said: Mapping[str, Any]) -> bool:
    """Whether a shard is the one of which a file says this.

    A local one is read only where its time is another: it may have been copied. Tar files have few sizes, multiples of
    10,240 bytes, so that equal ones say nothing; of files that were written before the rest was, they are all there is.
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
