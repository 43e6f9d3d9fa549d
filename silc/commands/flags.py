"""Flags of commands: parse a command line into a dataclass, or over a recipe; and types of common flags."""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, TypeVar, get_type_hints

import tyro
from tyro.conf import Positional, arg

from silc import config as configs
from silc import given, rundir
from silc.errors import BadInput
from silc.settings import Device, nearest, needed
from silc.terminal import say
from silc.training.directory import is_run

if TYPE_CHECKING:
    from silc.config import Trained

T = TypeVar("T")
Typed = Mapping[str, Sequence[str]]
"""The fields that were given: each path, and the words of its value."""
ModelName = Annotated[
    Positional[str],
    arg(help="A run's directory, a directory of `silc import`, open_clip:NAME/PRETRAINED, hf:ORG/NAME, FILE.npz."),
]
WeightsName = Annotated[
    Literal["auto", "student", "teacher"], arg(help="Weights of a run; `auto` is the teacher if there is one.")
]
TokenizerPath = Annotated[
    str, arg(help="tokenizer.json, spiece.model or a directory with one, instead of the model's own; a .npz has none.")
]
DeviceName = Annotated[str, Device(), arg(help="Where to compute: auto, cpu, cuda or cuda:N.")]


def is_import(model: str) -> bool:
    """Whether it is a model other than a run; false for a path that does not exist."""
    return not is_run(model) and (":" in model or Path(model).exists())


WEIGHTS_OF_RUNS = given.Idle(
    "weights", lambda c: is_import(c.model), "the model is no run with a student and a teacher"
)


def read(kind: type[T], args: Sequence[str], prog: str) -> T:
    """Read a command's flags into its dataclass.

    Raises:
        BadInput: as `parse`; a flag is given twice, or would not be read together with the others (the class's `idle`).
    """
    typed = given.flags(kind, args)
    value = parse(kind, args, prog)
    given.refuse_unread(typed, value, getattr(kind, "idle", ()))
    return value


def parse(kind: type[T], args: Sequence[str], prog: str, default: T | None = None) -> T:
    """Parse flags over the defaults of a dataclass, or over `default`.

    Raises:
        BadInput: an unknown flag, or an error of tyro, in one line instead of its box.
    """
    known = given.paths(kind)
    for path in given.flags(kind, args):
        if not {path, given.switch(path)} & {*known, "help"}:
            meant = nearest(path, known).replace("'", "'--", 1)
            said = f"--{path}{meant}".replace("_", "-")
            raise BadInput(f"{prog} has no flag {said} (`{prog} --help` lists them)")
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):  # tyro prints before it exits
            return tyro.cli(kind, args=args, prog=prog, default=tyro.MISSING_NONPROP if default is None else default)
    except BadInput as error:
        raise BadInput(_as_flags(kind, str(error))) from None
    except SystemExit as stop:
        if not stop.code:
            raise
    _, _, below_title = complaint.getvalue().partition("\n")
    words = " ".join(re.sub(r"[\u2500-\u257f]+|(?<!\S)-{5,}", " ", below_title).split())
    said = words.partition(" For full helptext")[0].partition(" Argument helptext:")[0]
    flag = re.search(r"Error parsing --(\S+):", said)
    path = flag[1].replace("-", "_") if flag else ""
    raise BadInput(said.removeprefix("Value error ") + needed(kind, path))


def _as_flags(kind: type, said: str) -> str:
    """The error `said`, which begins with a setting's path, with the path replaced by the flag that users type:
    eval.NAME.FIELD becomes --NAME.FIELD."""
    setting, _, rest = said.partition(" ")
    for name, hint in get_type_hints(kind).items():
        section = getattr(hint, "section", name)
        if section != name and setting.startswith(f"{section}."):
            setting = f"--{name}{setting.removeprefix(section)}".replace("_", "-")
    return f"{setting} {rest}"


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


def configured(command: str, args: Sequence[str]) -> tuple[Trained, Typed]:
    """The configuration of a recipe, a head, or a run's config.yaml, with the fields given after it; and these fields.

    Raises:
        BadInput: the recipe is missing or unknown; a field is unknown, or its value is not allowed.
    """
    if not args or args[0].startswith("-"):
        if args and args[0] in ("-h", "--help"):
            say(
                f"usage: silc {command} RECIPE [--field value ...]\n\n`silc recipes` lists the recipes; "
                f"`silc {command} RECIPE --help` lists the fields."
            )
            raise SystemExit(0)
        raise BadInput(f"silc {command} needs a recipe, e.g. `silc {command} silc_c`; `silc recipes` lists them")
    name, base = args[0], rundir.named(args[0])
    fields = spelled_out(args[1:], name, type(base))
    return over(base, fields, f"{command} {name}")


def spelled_out(args: Sequence[str], name: str, settings: type[Trained] = configs.Config) -> list[str]:
    """The arguments with every field's whole path (--lr becomes --train.optim.lr); errors refer to `silc show NAME`.

    Raises:
        BadInput: a flag is no field, or could be several.
    """
    known, spelled = configs.flat(settings()), []
    for word in args:
        flag, has_value, value = word.partition("=")
        if flag.startswith("--") and flag != "--help":
            path = flag.removeprefix("--").replace("-", "_")
            switch = given.switch(path)
            try:
                whole = configs.path_of(switch, known)
            except BadInput as error:
                asked = str(error).replace(f"'{switch}'", f"'{path}'", 1)
                raise BadInput(f"{asked} (`silc show {name}` lists them)") from None
            if switch != path:
                whole = re.sub(r"[^.]+$", r"no_\g<0>", whole)
            word = f"--{whole.replace('_', '-')}{has_value}{value}"
        spelled.append(word)
    return spelled


def over(base: configs.T, args: Sequence[str], command: str) -> tuple[configs.T, Typed]:
    """A configuration with the fields given as flags, which have their whole paths; and these fields.

    Raises:
        BadInput: a value is not allowed, a flag is given twice, or there are two sources of pairs.
    """
    typed = given.flags(type(base), args)
    config = parse(type(base), args, f"silc {command}", base)
    blank = "data.train" in typed and not "".join(typed["data.train"]).strip()
    if blank:  # an unset variable of the shell: generated scenes are not meant
        raise BadInput("--data.train is given and empty; name tar shards or a folder, or leave it out")
    return configs.with_one_source(config, typed), typed


def first_lines(functions: Mapping[str, Callable[..., Trained]]) -> str:
    """A line per recipe: its name and the first line of its docstring."""
    return "\n".join(f"{name:<18}{(function.__doc__ or '').splitlines()[0]}" for name, function in functions.items())
