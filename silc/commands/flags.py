"""Flags of commands: words of a command line read into a dataclass, and the types of those that models are given by."""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Annotated, Literal, TypeVar

import tyro
from tyro.conf import Positional, arg

from silc import given
from silc.errors import BadInput
from silc.settings import Device, needed
from silc.training.directory import is_run

T = TypeVar("T")
ModelName = Annotated[
    Positional[str],
    arg(help="A run's directory, what `silc import` wrote, open_clip:NAME/PRETRAINED, hf:ORG/NAME, FILE.npz."),
]
WeightsName = Annotated[
    Literal["auto", "student", "teacher"], arg(help="Of a run; `auto` is the teacher where there is one.")
]
TokenizerPath = Annotated[
    str, arg(help="tokenizer.json, spiece.model or a directory with one, instead of the model's own; a .npz has none.")
]
DeviceName = Annotated[str, Device(), arg(help="Where to compute: auto, cpu, cuda or cuda:N.")]


def is_import(model: str) -> bool:
    """Whether it is some model other than a run; what is not there at all is for its reader to say."""
    return not is_run(model) and (":" in model or Path(model).exists())


WEIGHTS_OF_RUNS = given.Idle(
    "weights", lambda c: is_import(c.model), "the model is no run with a student and a teacher"
)


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
