"""Ray beside the pool in `silc data score`: shards a second, and memory over the run.

    python scripts/curation_rate.py out/rate                      # 2,000 generated shards, three turns; a quiet machine
    python scripts/curation_rate.py out/rate --shards 40 --turns 1

Shards are generated pairs in img2dataset's layout, scored without a model by two workers: the work of a shard is least
there, so dealing shards out weighs most. Each turn scores all of them by the pool and by Ray, in another order each
time. The clock starts when a tenth of the files is there and stops at the last (times of the files themselves), so
that the start of processes does not count. Memory is what the command and its children have resident, looked at twice
a second: the highest in the second tenth of the run, and in the last.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import shutil
import statistics
import subprocess
import sys
import tarfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from silc.data.config import ObjectsConfig
from silc.data.objects import ObjectPairs

ENGINES = {"pool": (), "ray": ("--ray", "local")}
GOAL = 0.9
"""Of the pool's shards a second."""


class Run(NamedTuple):
    """What a command did."""

    rate: float
    """Shards a second."""
    early: int
    """Bytes resident at most in the second tenth of the run."""
    late: int
    """In the last tenth."""


def make_shards(folder: Path, num: int, each: int) -> None:
    """Shards `00000.tar` and on, of pairs of their own; those that are there stay."""
    folder.mkdir(parents=True, exist_ok=True)
    pairs = ObjectPairs(ObjectsConfig(num=num * each, size=128), 0)
    for number in range(num):
        path = folder / f"{number:05d}.tar"
        if path.is_file():
            continue
        with tarfile.open(folder / "partial", "w") as tar:
            for row in range(number * each, (number + 1) * each):
                pair, image = pairs[row], io.BytesIO()
                Image.fromarray(pair.pixels).save(image, "JPEG", quality=85)
                fields = json.dumps({"caption": pair.captions[0], "url": f"https://example.org/{row}.jpg"})
                members = (("jpg", image.getvalue()), ("txt", pair.captions[0].encode()), ("json", fields.encode()))
                for suffix, data in members:
                    header = tarfile.TarInfo(f"{row:09d}.{suffix}")
                    header.size = len(data)
                    tar.addfile(header, io.BytesIO(data))
        (folder / "partial").rename(path)


def score(shards: Path, out: Path, workers: int, flags: Sequence[str]) -> Run:
    """Score all shards by a command of its own."""
    shutil.rmtree(out, ignore_errors=True)
    command = [
        "data",
        "score",
        f"{shards}/*.tar",
        "--out",
        str(out),
        "--workers",
        str(workers),
        "--threads",
        "1",
        *flags,
    ]
    process = subprocess.Popen([sys.executable, "-m", "silc", *command], stdout=subprocess.DEVNULL)
    seen = []
    while process.poll() is None:
        seen.append((time.time(), resident(process.pid)))
        time.sleep(0.5)
    if process.returncode:
        raise SystemExit(f"silc {' '.join(command)} failed")
    ends = sorted(file.stat().st_mtime for file in out.glob("*.parquet"))
    tenth = len(ends) // 10
    rate = (len(ends) - 1 - tenth) / (ends[-1] - ends[tenth])
    early = [size for when, size in seen if ends[tenth] <= when <= ends[2 * tenth]]
    late = [size for when, size in seen if ends[-tenth] <= when <= ends[-1]]
    return Run(rate, max(early, default=0), max(late, default=0))


def resident(pid: int) -> int:
    """Bytes of a process and of all below it, pages that several share in equal parts."""
    total = 0
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                total = int(line.split()[1]) << 10
        children = [
            int(child)
            for task in os.listdir(f"/proc/{pid}/task")
            for child in Path(f"/proc/{pid}/task/{task}/children").read_text().split()
        ]
    except OSError:  # it has ended
        return total
    return total + sum(map(resident, children))


def table(found: dict[str, list[Run]]) -> list[str]:
    """Markdown, and whether the goal is met."""
    rates = {name: statistics.median(run.rate for run in runs) for name, runs in found.items()}
    lines = ["| | shards a second | median | MB early | MB late |", "| --- | --- | ---: | ---: | ---: |"]
    for name, runs in found.items():
        each = ", ".join(f"{run.rate:.1f}" for run in runs)
        early, late = (max(getattr(run, when) for run in runs) / 1e6 for when in ("early", "late"))
        lines.append(f"| {name} | {each} | {rates[name]:.1f} | {early:.0f} | {late:.0f} |")
    share = rates["ray"] / rates["pool"]
    return [
        *lines,
        "",
        f"Ray has {share:.0%} of the pool's: {'the' if share >= GOAL else 'below the'} goal of {GOAL:.0%}.",
    ]


def main() -> None:
    """The shards that are missing, then all turns."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--shards", type=int, default=2000)
    parser.add_argument("--each", type=int, default=50, help="samples of a shard")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2)
    asked = parser.parse_args()
    make_shards(asked.out / "shards", asked.shards, asked.each)
    found: dict[str, list[Run]] = {name: [] for name in ENGINES}
    for turn in range(asked.turns):
        for name in list(ENGINES)[:: -1 if turn % 2 else 1]:
            found[name].append(score(asked.out / "shards", asked.out / name, asked.workers, ENGINES[name]))
            print(name, f"{found[name][-1].rate:.1f} shards a second", flush=True)
    lines = table(found)
    print("\n".join(lines))
    (asked.out / "table.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
