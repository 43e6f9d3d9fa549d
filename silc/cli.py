"""The command line: the table of commands, and how their errors are shown. A command is imported when called."""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import platform
import sys
from collections.abc import Sequence
from typing import NamedTuple

import silc
from silc import places
from silc.errors import BadInput, LostRank, Preempted
from silc.processor import wait_briefly
from silc.terminal import complain, finish, prepare, say


class Command(NamedTuple):
    """A command's module in `silc/commands/`, and its line in `silc --help`."""

    module: str
    arguments: str
    what: str = ""


COMMANDS = {
    "train": Command(
        "train", "RECIPE --data.train '/data/{00000..00331}.tar' --out out/run", "begin a run, or go on with it"
    ),
    "finetune": Command("finetune", "--init MODEL --data.train SHARDS --out out/mine", "from a run, hf: or open_clip:"),
    "eval": Command(
        "eval", "RUN [RUN ...] --root /data --out scores.json", "scores and a report; also --list, --table"
    ),
    "import": Command("import_model", "SOURCE OUT", "open_clip:, hf:, FILE.npz or a directory, into silc's own form"),
    "export": Command("export", "MODEL OUT", "for open_clip, transformers, onnx, torch_export, int8, each checked"),
    "predict": Command("predict", "classify|embed|segment|detect|caption|answer MODEL IMAGES...", "with --out"),
    "serve": Command(
        "serve", "MODEL [MODEL ...]", "a page in the browser: words in, segmentation out, two side by side"
    ),
    "probe": Command("probe", "MODEL --root /data --out out/probe", "k-NN and linear layers on its frozen features"),
    "doctor": Command("doctor", "", "what is installed, device, precision, data"),
    "plan": Command("plan", "RECIPE --gpus 64 --gpu h100", "FLOPs, memory, traffic, hours and cost, before it starts"),
    "show": Command("show", "RECIPE", "every field with its value and meaning"),
    "recipes": Command("recipes", "", "the names of the recipes"),
    "data": Command(
        "data",
        "check|make|score|stats|select|prepare|generate ...",
        "looks at pairs, makes shards, chooses a cleaner subset",
    ),
    "demo": Command("demo", "", "what `make demo` runs"),
    "bench": Command("bench", "[PART ...]", "how fast silc is, beside its alternatives"),
}
EXIT_CODES = """
Exit codes: 0 done, 2 bad input (one line on stderr), 75 try again (another rank was lost, a server does not answer),
130 interrupted (the first Ctrl-C lets a run save, the second leaves at once), 143 asked to stop (SIGTERM, SIGUSR1) and
saved."""


def main(args: Sequence[str] | None = None) -> int:
    """Run one command and return the exit code."""
    wait_briefly()
    prepare()
    try:
        return _run(list(sys.argv[1:] if args is None else args))
    finally:
        finish()


def usage() -> str:
    """What `silc --help` prints: a line per command."""
    lines = [f"    {f'silc {name} {one.arguments}':<22}  {one.what}".rstrip() for name, one in COMMANDS.items()]
    return "\n".join(["What silc does; each command takes --help.\n", *lines, EXIT_CODES])


def _run(args: list[str]) -> int:
    try:
        return _dispatch(args)
    except BadInput as error:
        complain(error)
        return error.exit_code
    except LostRank as error:
        complain(error)
        finish()
        # Exit at once: a normal exit with broken connections took seconds, and sometimes aborted.
        os._exit(75)
    except OSError as error:
        if error.filename is None and error.errno not in places.CANNOT_WRITE:
            raise
        complain(places.complaint(error))
        return 2
    except Preempted as stop:
        if said := str(stop):
            complain(said)
        return stop.exit_code
    except KeyboardInterrupt as interrupt:
        complain("; ".join(["interrupted", *map(str, interrupt.args)]))
        return 130


def _dispatch(args: list[str]) -> int:
    if not args or args[0] in ("-h", "--help"):
        say(usage())
        return 0
    if args[0] in ("-V", "--version"):
        say(f"silc {silc.__version__}, torch {importlib.metadata.version('torch')}, Python {platform.python_version()}")
        return 0
    command, rest = args[0], args[1:]
    if command not in COMMANDS:
        from silc.settings import nearest

        raise BadInput(f"unknown command '{command}'{nearest(command, COMMANDS)} (silc --help lists them)")
    code: int = importlib.import_module(f"silc.commands.{COMMANDS[command].module}").main(rest)
    return code
