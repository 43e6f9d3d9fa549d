"""RECIPE with the fields given after it, for the commands that take one."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from silc import config as configs
from silc import given, rundir
from silc.commands import flags
from silc.errors import BadInput
from silc.terminal import say

if TYPE_CHECKING:
    from silc.config import Config

Typed = Mapping[str, Sequence[str]]
"""The fields that were given, by their paths, and the words they were given."""


def configured(command: str, args: Sequence[str]) -> tuple[Config, Typed]:
    """A recipe, or a run's config.yaml, with the fields given after it.

    Raises:
        BadInput: there is no recipe, or it is none; a field is none, or its value is not allowed.
    """
    if not args or args[0].startswith("-"):
        if args and args[0] in ("-h", "--help"):
            say(
                f"usage: silc {command} RECIPE [--field value ...]\n\n`silc recipes` lists the recipes; "
                f"`silc {command} RECIPE --help` lists the fields."
            )
            raise SystemExit(0)
        raise BadInput(f"silc {command} needs a recipe, e.g. `silc {command} silc_c`; `silc recipes` lists them")
    name = args[0]
    fields = spelled_out(args[1:], name)
    return over(rundir.named(name), fields, f"{command} {name}")


def spelled_out(args: Sequence[str], name: str) -> list[str]:
    """The arguments with every field's whole path (--lr is --train.optim.lr); `name` is whose fields can be listed.

    Raises:
        BadInput: a flag is no field, or could be several.
    """
    known, spelled = configs.flat(configs.Config()), []
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


def over(base: Config, args: Sequence[str], command: str) -> tuple[Config, Typed]:
    """A configuration with the fields given as flags, which are spelled out.

    Raises:
        BadInput: a value is not allowed, a flag is given twice, or two sources of pairs are.
    """
    typed = given.flags(configs.Config, args)
    config = flags.parse(configs.Config, args, f"silc {command}", base)
    if "data.train" in typed and not config.data.train:  # a shell's variable that is not set: scenes are not meant
        raise BadInput("--data.train is given and empty; name tar shards or a folder, or leave it out")
    return configs.with_one_source(config, typed), typed


def first_lines(functions: Mapping[str, Callable[..., Config]]) -> str:
    """A line per recipe: its name and the first line of its docstring."""
    return "\n".join(f"{name:<18}{(function.__doc__ or '').splitlines()[0]}" for name, function in functions.items())
