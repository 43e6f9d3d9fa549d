"""Write files and folders atomically: under a temporary name, flushed to disk, then renamed."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

UNKNOWN_TO_IT = (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EBADF)
"""Errors of a file system that does not support the request; a failed write has other errors."""


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Give a temporary name beside `path`. At the end it is renamed to `path`; after an error it is deleted.

    A link is followed, not replaced. Parent folders are made. Several processes may write one path at the same time.
    """
    path = Path(os.path.realpath(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".partial-{secrets.token_hex(8)}")  # short: a long name has no room for a prefix
    try:
        yield beside
        for part in [*beside.rglob("*"), beside]:
            flush(part)
        beside.replace(path)
    except BaseException:
        if beside.is_dir():
            shutil.rmtree(beside, ignore_errors=True)
        beside.unlink(missing_ok=True)
        raise
    flush(path.parent)


def write_whole(path: Path, text: str) -> None:
    """Write a text file atomically; a device or a pipe is written directly.

    The encoding is UTF-8; lone surrogates (bytes of a file's name that are not text) become question marks.
    """
    if path.exists() and not path.is_file():
        path.write_text(text, encoding="utf-8", errors="replace")
        return
    with whole(path) as beside:
        beside.write_text(text, encoding="utf-8", errors="replace")


def flush(path: Path) -> None:
    """Flush a file's bytes, or a directory's entries, to disk, as far as the file system supports it."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except OSError:
        if path.is_dir():
            return  # some file systems cannot open directories
        raise
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in UNKNOWN_TO_IT:
            raise
    finally:
        os.close(handle)
