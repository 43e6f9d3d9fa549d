"""Keep a limited number of files open, to read them by offset."""

from __future__ import annotations

import os
from pathlib import Path


class OpenFiles:
    """At most `limit` open files; the oldest is closed first. Forked workers may share them; a pickle has none."""

    def __init__(self, limit: int = 256) -> None:
        self.limit = limit
        self._descriptors: dict[Path, int] = {}

    def read(self, path: Path, offset: int, size: int, flags: int = os.O_RDONLY) -> bytes:
        """`size` bytes at `offset`, fewer if the file has become shorter."""
        return os.pread(self.descriptor(path, flags), size, offset)

    def descriptor(self, path: Path, flags: int) -> int:
        """The descriptor of a file, which is opened with `flags` if it is not open yet."""
        if path not in self._descriptors:
            if len(self._descriptors) >= self.limit:
                self.close(next(iter(self._descriptors)))
            opened = os.open(path, flags | os.O_CLOEXEC, 0o600)
            if self._descriptors.setdefault(path, opened) != opened:  # another thread was faster
                os.close(opened)
        return self._descriptors[path]

    def close(self, path: Path) -> None:
        """Close a file."""
        os.close(self._descriptors.pop(path))

    def __reduce__(self) -> tuple[type, tuple[int]]:
        return OpenFiles, (self.limit,)

    def __del__(self) -> None:
        for descriptor in self._descriptors.values():
            os.close(descriptor)
