"""Every decoder without training on trained runs, as Markdown: mean and spread over the seeds, and what each adds.

    python scripts/decoders.py out/evidence/rows/silc_c/seed-* --root out/evidence/sets/KEY
    python scripts/decoders.py out/a out/b --root data --tasks 'ade150-zs-seg' --segmentation tcl,sclip

Runs in one folder are the seeds of one arm, and have a table. Teachers are scored where there are some. Decoder
proxyclip is scored where a second encoder is named. A difference is to the cosine of the same run.
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from pathlib import Path

from spread import Scores

import silc
from silc.eval.decoders import DECODERS
from silc.eval.tasks import task_name

Found = Mapping[tuple[str, str], Mapping[str, float]]
"""mIoU in percent by (way, task), by run."""


def scored(run: Path, second: str, **fields: str) -> dict[tuple[str, str], float]:
    """mIoU in percent of each decoder (with the protocol, where there are several) on each task."""
    model = silc.load(run)
    model.second = silc.load(second) if second else None
    several, found = "," in fields["segmentation"], {}
    with redirect_stdout(sys.stderr):  # how far it is; the tables alone go to stdout
        evaluations = silc.evaluate(model, num_pictures=0, exif_orientation="apply", **fields)
    for record in (one.record for one in evaluations):
        way = f"{record.protocol.get('decoder', 'cosine')}{', ' * several}{record.protocol['protocol'] * several}"
        found[way, task_name(record.task, record.dataset)] = 100 * record.metrics["miou"]
        found["chance", task_name(record.task, record.dataset)] = 100 * record.chance["miou"]
    return found


def table(found: Found) -> list[str]:
    """A row a decoder: mean and standard deviation over the runs, and the mean of the paired differences to cosine."""
    ways, tasks = (list(dict.fromkeys(key[i] for key in found if key[0] != "chance")) for i in range(2))
    lines = [f"| decoder | runs | {' | '.join(tasks)} |", "| --- | ---: |" + " ---: |" * len(tasks)]
    for way in ways:
        cells = []
        for task in tasks:
            own, usual = found[way, task], found.get((f"cosine{way.removeprefix(way.partition(',')[0])}", task))
            cell = str(Scores(list(own.values())))
            if usual and usual is not own:
                differences = [own[run] - usual[run] for run in own]
                up = sum(one > 0 for one in differences)
                cell += f" ({sum(differences) / len(differences):+.1f}, {up} of {len(own)} up)"
            cells.append(cell)
        lines.append(f"| {way} | {len(found[way, tasks[0]])} | {' | '.join(cells)} |")
    level = [f"{next(iter(found['chance', task].values())):.1f}" for task in tasks]
    return [*lines, f"| chance | | {' | '.join(level)} |"]


def arms(runs: Sequence[Path], second: str, **fields: str) -> list[str]:
    """A table for each folder of runs."""
    by_arm: dict[str, dict[tuple[str, str], dict[str, float]]] = defaultdict(lambda: defaultdict(dict))
    for run in runs:
        for key, value in scored(run, second, **fields).items():
            by_arm[str(run.parent)][key][str(run)] = value
    return [line for arm, found in by_arm.items() for line in (f"{Path(arm).name}:", "", *table(found), "")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--root", required=True, help="the sets, as for silc eval")
    parser.add_argument("--tasks", default="*-zs-seg")
    parser.add_argument("--decoders", default="", help="joined by commas; all by default")
    parser.add_argument("--segmentation", default="tcl")
    parser.add_argument("--second", default="", help="another model, for proxyclip and lposs")
    asked = parser.parse_args()
    decoders = asked.decoders or ",".join(name for name in DECODERS if asked.second or name != "proxyclip")
    fields = {"root": asked.root, "tasks": asked.tasks, "decoder": decoders, "segmentation": asked.segmentation}
    print("\n".join(arms(asked.runs, asked.second, **fields)))


if __name__ == "__main__":
    main()
