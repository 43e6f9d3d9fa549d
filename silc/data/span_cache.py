"""What was read of far files, kept on a local disk up to a bound, so that the next epoch does not fetch it again.

One sparse file for each far one, each span at its own place in it. Its size and CRC-32 stand in the eight bytes before
it, which in a tar belong to a header that nobody asks for: one write keeps a span, one read finds it, and a span that
is torn, damaged or not there is fetched again. Beyond the bound the files used longest ago go. Any number of processes
may use one folder at a time.
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
    """Spans of bytes by (which file, start)."""

    def __init__(self, folder: Path, max_bytes: int, *, open_files: int = 256) -> None:
        """`max_bytes` of disk for all files of the folder together."""
        self.folder = folder
        self.max_bytes = max_bytes
        self._files = OpenFiles(open_files)
        self._unseen = max_bytes  # written since the last look; the first write looks
        self._works = True

    def get(self, key: str, start: int, size: int) -> bytes | None:
        """A span that was put there whole, or None."""
        try:
            descriptor = self._open(key, os.O_RDWR)
            found = os.pread(descriptor, RECORD.size + size, start - RECORD.size)
        except OSError:
            return None
        data = found[RECORD.size :]
        return data if found[: RECORD.size] == RECORD.pack(zlib.crc32(data), size) and len(data) == size else None

    def put(self, key: str, start: int, data: bytes) -> None:
        """Keep a span that starts at byte 8 or later. A full disk ends the keeping, and nothing else."""
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
            log.warning("nothing more is kept of remote shards: %s: %s", self.folder, error.strerror)

    def _open(self, key: str, flags: int) -> int:
        path = self.folder / hashlib.sha256(key.encode()).hexdigest()[:32]
        descriptor = self._files.descriptor(path, flags)
        if not os.fstat(descriptor).st_nlink:
            self._files.close(path)  # another process made room; its space is free once all have closed it
            descriptor = self._files.descriptor(path, flags)
        os.utime(descriptor)  # what is only read is in use too
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
                os.truncate(path, 0)  # others may have it open, and would hold its space
                os.unlink(path)
            surplus -= size
