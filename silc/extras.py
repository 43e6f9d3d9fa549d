"""Libraries that only some commands need, and how they are installed."""

from __future__ import annotations

import importlib
from typing import Any

from silc.errors import BadInput


def install(extra: str) -> str:
    """The line that installs an extra of pyproject.toml. No package index has silc; it is a checkout.

    >>> install("log")
    "`pip install -e '.[log]'` in silc's checkout"
    """
    return f"`pip install -e '.[{extra}]'` in silc's checkout"


def needs(what: str, module: str, extra: str) -> Any:
    """A module of such a library; `what` needs it.

    Raises:
        BadInput: it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        library = module.partition(".")[0]
        raise BadInput(f"{what} needs {library}, which is not installed: {install(extra)} ({error})") from error
