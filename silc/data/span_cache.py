"""Bytes read from remote files, cached on a local disk up to a size limit, so that later epochs need not fetch them.

Each remote file has one sparse local file, with each span at its own offset. A span's size and CRC-32 are stored in the
eight bytes before it; in a tar, those bytes belong to a header that is never requested. So a span needs one write and
one read, and a span that is torn, damaged or absent is fetched again. Above the limit, the least recently used files
are deleted. Several processes may use one folder at the same time.
"""

from __future__ import annotations

import hashlib
import logging
import os
import struct
import zlib
from contextlib import suppress
from pathlib import Path

from silc.data.open_files import OpenFiles

log = logging.getLogger(__name__)

RECORD = struct.Struct("<II")  # CRC-32, size
LOOKS = 256
"""The folder's size is checked again after every max_bytes / LOOKS bytes; each process may overshoot by that much."""


class SpanCache:
    """Cached spans of bytes, found by file key and start offset."""

    def __init__(self, folder: Path, max_bytes: int, *, open_files: int = 256) -> None:
        """`max_bytes` is the limit for all files of the folder together."""
        self.folder = folder
        self.max_bytes = max_bytes
        self._files = OpenFiles(open_files)
        self._unseen = max_bytes  # bytes written since the last size check; the first write checks
        self._works = True

    def get(self, key: str, start: int, size: int) -> bytes | None:
        """The cached span, or None if it is absent or damaged."""
        try:
            descriptor = self._open(key, os.O_RDWR)
            found = os.pread(descriptor, RECORD.size + size, start - RECORD.size)
        except OSError:
            return None
        data = found[RECORD.size :]
        return data if found[: RECORD.size] == RECORD.pack(zlib.crc32(data), size) and len(data) == size else None

    def put(self, key: str, start: int, data: bytes) -> None:
        """Store a span that starts at byte 8 or later. On a full disk, caching stops and reading goes on."""
        if not self._works:
            return
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            descriptor = self._open(key, os.O_RDWR | os.O_CREAT)
            os.pwrite(descriptor, RECORD.pack(zlib.crc32(data), len(data)) + data, start - RECORD.size)
            self._unseen += len(data)
            if self._unseen >= self.max_bytes / LOOKS:
                self._unseen = 0
                self._make_room()
        except OSError as error:
            self._works = False
            log.warning("remote shards are no longer cached: %s: %s", self.folder, error.strerror)

    def _open(self, key: str, flags: int) -> int:
        path = self.folder / hashlib.sha256(key.encode()).hexdigest()[:32]
        descriptor = self._files.descriptor(path, flags)
        if not os.fstat(descriptor).st_nlink:
            self._files.close(path)  # another process deleted it; its space is freed when all have closed it
            descriptor = self._files.descriptor(path, flags)
        os.utime(descriptor)  # a read counts as use too
        return descriptor

    def _make_room(self) -> None:
        files = []
        for entry in os.scandir(self.folder):
            with suppress(FileNotFoundError):
                status = entry.stat()
                files.append((status.st_mtime_ns, status.st_blocks * 512, entry.path))
        surplus = sum(size for _, size, _ in files) - self.max_bytes
        for _, size, path in sorted(files):
            if surplus <= 0:
                return
            with suppress(FileNotFoundError):
                os.truncate(path, 0)  # free the space even if others have the file open
                os.unlink(path)
            surplus -= size
