"""Files and folders that are whole at any time: made beside their place, flushed to disk, then renamed."""

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
"""What a file system says of a request that it has no notion of; a failure to write is another."""


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A name beside `path` for the file or folder that is to stand there, and does so at the end; or nothing is left.

    What a link leads to is written, not the link. Folders above it are made. Processes may write one path at a time.
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
    """Write a file that is whole at any time; what is no plain file (a device, a pipe) is written to.

    It is UTF-8; lone surrogates (bytes of a name that are no text) become question marks.
    """
    if path.exists() and not path.is_file():
        path.write_text(text, encoding="utf-8", errors="replace")
        return
    with whole(path) as beside:
        beside.write_text(text, encoding="utf-8", errors="replace")


def flush(path: Path) -> None:
    """Make a file's bytes, or a directory's entries, survive a power cut, as far as the file system knows how."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except OSError:
        if path.is_dir():
            return  # some do not open directories
        raise
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in UNKNOWN_TO_IT:
            raise
    finally:
        os.close(handle)
