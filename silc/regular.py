"""Refuse to read a pipe or a device: a pipe that nobody writes to would block, a device could fill the memory."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


def regular(path: Path) -> Path:
    """Return the path if it is no pipe, device, socket or folder. A missing file is left to its reader.

    Raises:
        OSError: it is one of these.
    """
    if os.path.exists(path) and not os.path.isfile(path):
        raise OSError(errno.EINVAL, "is a pipe, a device or a folder; needed a file", str(path))
    return path
