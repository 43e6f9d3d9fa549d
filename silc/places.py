"""Check before the work that files and folders can be written. A failure gives one line; nothing is left behind.

The check writes an unnamed temporary file, because permissions alone do not show a read-only file system, a full disk
or a quota. Importing this module imports no torch.
"""

from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path

from silc.errors import BadInput

CANNOT_WRITE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO)
"""Error numbers of a failed write, whose error has no file name: disk or quota full, place locked or broken."""
ENOUGH = 4096
"""Bytes that the check writes."""


def file(given: str | Path, *, flag: str = "--out") -> Path:
    """The path of a file, checked to be writable: it is there and not locked, or it and its folders can be made.

    Args:
        given: a leading `~` is the home folder, as in a shell.
        flag: the flag that gave it, for the message.

    Raises:
        BadInput: it cannot be written; the message says why.
    """
    path = _reached(given, flag)
    if path.is_dir() or str(given).endswith(os.sep):
        raise BadInput(f"{flag} {given}: {path} is a folder, and a file is needed; name a file in it")
    try:
        if path.exists():
            os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK))
        if not path.exists() or path.is_file():  # a device or a pipe needs no room beside it
            _try(path.parent)
    except OSError as error:
        raise _refused(given, flag, error) from None
    return path


def beside(path: Path, of: Path, *, flag: str) -> Path:
    """The path of a file that is written beside the file `of`, under a name that the user did not give. If it exists
    and `of` does not, it is somebody else's.

    Raises:
        BadInput: it cannot be written, or it would replace somebody's file.
    """
    tried = file(path, flag=flag)
    if path.exists() and not of.exists():
        raise BadInput(f"{flag}: {path} exists without {of} and would be replaced; move it or give another --out")
    return tried


def folder(given: str | Path, *, flag: str = "--out") -> Path:
    """The path of a folder, checked to be writable: it is there, or it can be made. Arguments as for `file`.

    Raises:
        BadInput: it cannot be written to; the message says why.
    """
    path = _reached(given, flag)
    if path.exists() and not path.is_dir():
        raise BadInput(f"{flag} {given}: {path} is a file, and a folder is needed; give another {flag}")
    try:
        _try(path)
    except OSError as error:
        raise _refused(given, flag, error) from None
    return path


def empty_folder(given: str | Path, *, flag: str = "OUT") -> Path:
    """As `folder`; the folder must also be empty or new.

    Raises:
        BadInput: it cannot be written to, or holds something.
    """
    path = folder(given, flag=flag)
    if path.is_dir() and any(path.iterdir()):
        raise BadInput(f"{path} is not empty; give another directory")
    return path


def complaint(error: OSError) -> str:
    """One line for an error of the file system that came during the work."""
    name = os.fsdecode(error.filename) if isinstance(error.filename, str | bytes) else "the output"
    return f"{name}: {error.strerror or error}; what was finished before is intact"


def _reached(given: str | Path, flag: str) -> Path:
    """The path that is meant: its existing parts are of the right kind, and its other names are allowed."""
    if not str(given):
        raise BadInput(f"{flag} is empty; name a place to write to")
    if "\0" in str(given):
        raise BadInput(f"{flag} {str(given)!r}: a path cannot hold a null byte")
    if "://" in str(given):
        raise BadInput(f"{flag} {given} is an address; name a place on this machine, and upload what is written there")
    try:
        path = Path(given).expanduser()
    except RuntimeError as error:
        raise BadInput(f"{flag} {given}: {error}; write the whole path") from None
    try:
        for part in (path, *path.parents):
            if part.is_symlink() and not part.exists():
                raise BadInput(
                    f"{flag} {given}: {part} is a link to {os.readlink(part)}, which does not exist; "
                    f"create it, remove the link, or give another {flag}"
                )
        there = _nearest(path)
        if there != path and not there.is_dir():
            raise BadInput(f"{flag} {given}: {there} is a file, and a folder is needed there; give another {flag}")
        for name in path.relative_to(there).parts:
            (there / name).exists()  # one name at a time, so that an impossible name is found even below a new folder
    except OSError as error:
        raise _refused(given, flag, error) from None
    return path


def _nearest(path: Path) -> Path:
    """The path itself, or the nearest folder above it that exists."""
    return next((part for part in (path, *path.parents) if part.exists()), Path("."))


def _try(folder: Path) -> None:
    """Write something into a folder, or into the nearest one above it that exists."""
    with tempfile.TemporaryFile(dir=_nearest(folder)) as handle:
        handle.write(bytes(ENOUGH))


def _refused(given: str | Path, flag: str, error: OSError) -> BadInput:
    reason = {errno.ENXIO: "a pipe that nobody reads"}.get(error.errno or 0, error.strerror or str(error))
    return BadInput(f"{flag} {_short(str(given))} cannot be written: {reason}; give another {flag}")


def _short(text: str) -> str:
    return text if len(text) <= 200 else f"{text[:200]}... ({len(text)} characters)"
