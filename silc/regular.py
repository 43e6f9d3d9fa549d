"""Files that have an end: a pipe nobody writes to would be waited for, a device read until memory is full."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


def regular(path: Path) -> Path:
    """The path, where it is no pipe, device, socket or folder; what is not there is for its reader to say.

    Raises:
        OSError: it is one of these.
    """
    if os.path.exists(path) and not os.path.isfile(path):
        raise OSError(errno.EINVAL, "is a pipe, a device or a folder; needed a file", str(path))
    return path
