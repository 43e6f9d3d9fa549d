"""Words of a command line, read into a command's dataclass of flags."""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Collection, Sequence
from typing import TypeVar

import tyro

from silc import given
from silc.settings import needed
from silc.types import BadInput

T = TypeVar("T")


def read(kind: type[T], args: Sequence[str], prog: str) -> T:
    """A command's flags.

    Raises:
        BadInput: as `parse`; a flag is given twice, or would not be read beside the others (the class's `idle`).
    """
    typed = given.flags(kind, args)
    value = parse(kind, args, prog)
    given.refuse_unread(typed, value, getattr(kind, "idle", ()))
    return value


def parse(kind: type[T], args: Sequence[str], prog: str, default: T | None = None) -> T:
    """Flags over the defaults of a dataclass, or over `default`.

    Raises:
        BadInput: what tyro complains of, in one line instead of its box.
    """
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):  # tyro prints before it exits
            return tyro.cli(kind, args=args, prog=prog, default=tyro.MISSING_NONPROP if default is None else default)
    except SystemExit as stop:
        if not stop.code:
            raise
    words = " ".join(re.sub(r"[\u2500-\u257f]+|(?<!\S)-{5,}", " ", complaint.getvalue()).split())
    said = words.partition(" For full helptext")[0].partition(" Argument helptext:")[0]
    flag = re.search(r"Error parsing --(\S+):", said)
    path = flag[1].replace("-", "_") if flag else ""
    raise BadInput(said.removeprefix("Value error ") + needed(kind, path))


def taken(args: Sequence[str], names: Collection[str]) -> tuple[dict[str, str], list[str]]:
    """Values of `--name value` and `--name=value` for these names, and the arguments that are left.

    Raises:
        BadInput: one is given twice with different values.
    """
    found, left, words = dict[str, str](), list[str](), iter(args)
    for word in words:
        flag, has_value, value = word.partition("=")
        name = flag.removeprefix("--").replace("-", "_")
        if flag.startswith("--") and name in names:
            value = value if has_value else next(words, "")
            if found.setdefault(name, value) != value:
                raise BadInput(f"{flag} is given twice, as {found[name]!r} and as {value!r}; give it once")
        else:
            left.append(word)
    return found, left
