"""`silc bench`: measure speed, beside the usual alternatives."""

from __future__ import annotations

import sys
from pathlib import Path

import silc
from silc import terminal
from silc.commands import flags
from silc.errors import BadInput
from silc.terminal import announce, say


def main(args: list[str]) -> int:
    """Measure, print the rows, and write them if a file is given."""
    try:
        checkout = _checkout()
    except BadInput as missing:
        if {"-h", "--help"}.isdisjoint(args):
            raise
        say(f"How fast silc is, beside its alternatives: {missing}")
        return 0
    sys.path.insert(0, str(checkout))  # an editable install has only the package there
    from benchmarks import suite

    config = flags.read(suite.BenchConfig, args, "silc bench")
    suite.check(config)
    announce(f"bench: {', '.join(config.parts)}")
    rows = suite.run(config)
    terminal.page(suite.table(rows), width=200)
    if config.out:
        say(f"benchmark: {config.out}")
    return 0


def _checkout() -> Path:
    """The folder that holds the package and the benchmarks.

    Raises:
        BadInput: the package is installed without them.
    """
    root = Path(silc.__file__).parents[1]
    if not (root / "benchmarks" / "suite.py").is_file():
        raise BadInput(
            "silc bench needs the folder benchmarks/, which comes with silc's repository and not with an installed "
            f"package ({root / 'silc'}); in a clone of it: `pip install -e .`, then `silc bench`"
        )
    return root
