"""Libraries that only some commands need, and how they are installed."""

from __future__ import annotations

import importlib
import re
import shlex
from importlib import metadata
from pathlib import Path
from typing import Any

from silc.errors import BadInput


def install(extra: str) -> str:
    """The command that installs an extra of pyproject.toml.

    silc is on no package index: in a checkout the command installs the checkout's extra, and after an installation from
    a wheel the extra's requirements.

    >>> install("log")  # in a checkout
    "`pip install -e '.[log]'` in silc's checkout"
    """
    if (Path(__file__).parents[1] / "pyproject.toml").is_file():
        return f"`pip install -e '.[{extra}]'` in silc's checkout"
    packages = shlex.join(requirements(extra))
    return f"`pip install {packages}`"


def requirements(extra: str) -> list[str]:
    """The requirements of an extra, from the installed package's metadata: `open_clip_torch<5,>=3.3` and so on."""
    marked = (line.partition(";") for line in metadata.requires("silc") or ())
    return [asked.strip() for asked, _, marker in marked if re.search(rf"extra == ['\"]{extra}['\"]", marker)]


def needs(what: str, module: str, extra: str) -> Any:
    """Import and return a module that `what` needs.

    Raises:
        BadInput: it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        library = module.partition(".")[0]
        raise BadInput(f"{what} needs {library}, which is not installed: {install(extra)} ({error})") from error
