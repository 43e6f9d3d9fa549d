"""Failure drill: real `silc train` processes, hurt from outside, and what survived.

    make drill                                   every scenario in full (about an hour on two slow cores)
    python -m scripts.drill --short              a few tries of each (minutes)
    python -m scripts.drill --only resume,saves  some of them

Nothing is raised inside the trained processes: they are killed, their files are damaged, their disk is filled, and
numbers are overwritten in their memory (Linux, as root). Prints a table (scenario, tries, survived, lost) and writes
OUT/drill.json; exit code 1 when anything was lost.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.table import Table

from .budget import budget
from .checkpoints import corruption, disk, saves, saves_of_two
from .costs import asynchronous, overhead
from .data import images, remote
from .machines import elastic, hang, nodes
from .numbers import collapse, numbers
from .outcome import Row
from .resuming import preempt, reshard, resume

SCENARIOS: tuple[Callable[[Path, bool], Iterator[Row]], ...] = (
    *(resume, saves, saves_of_two, preempt, reshard, asynchronous, corruption, disk, numbers, collapse, images),
    *(remote, hang, nodes, elastic, overhead, budget),
)


def drill(out: Path, *, short: bool, only: str = "") -> list[Row]:
    """Run scenarios and write OUT/drill.json."""
    wanted = only.split(",") if only else [scenario.__name__ for scenario in SCENARIOS]
    unknown = set(wanted) - {scenario.__name__ for scenario in SCENARIOS}
    if unknown:
        raise SystemExit(f"no scenario {sorted(unknown)[0]}; there are {', '.join(s.__name__ for s in SCENARIOS)}")
    shutil.rmtree(out, ignore_errors=True)
    rows: list[Row] = []
    for scenario in SCENARIOS:
        if scenario.__name__ in wanted:
            start = time.monotonic()
            for row in scenario(out / scenario.__name__, short):
                rows.append(row)
                print(f"{row.scenario}: {row.survived} of {row.tries}; {row.figure}", flush=True)
            print(f"  ({scenario.__name__}: {time.monotonic() - start:.0f} s)", flush=True)
    (out / "drill.json").write_text(json.dumps([asdict(row) | {"lost": row.lost} for row in rows], indent=1))
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m scripts.drill", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("out/drill"))
    parser.add_argument("--short", action="store_true", help="a few tries of each scenario")
    parser.add_argument("--only", default="", help="names of scenarios, joined by commas")
    args = parser.parse_args()
    rows = drill(args.out, short=args.short, only=args.only)
    table = Table("scenario", "tries", "survived", "lost", "figure", title="Failure drill", title_justify="left")
    for row in rows:
        table.add_row(row.scenario, str(row.tries), str(row.survived), str(row.lost), row.figure)
    Console(width=150).print(table)
    return int(any(row.lost for row in rows))


if __name__ == "__main__":
    sys.exit(main())
