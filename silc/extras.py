"""How the libraries that only some commands need are installed: said in one place."""

from __future__ import annotations


def install(extra: str) -> str:
    """The line that installs an extra of pyproject.toml. No package index has silc; it is a checkout.

    >>> install("log")
    "`pip install -e '.[log]'` in silc's checkout"
    """
    return f"`pip install -e '.[{extra}]'` in silc's checkout"
