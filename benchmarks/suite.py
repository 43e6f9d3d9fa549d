"""`silc bench`: run parts of the benchmark, print the table, keep the JSON."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import tyro
from rich.table import Table

from silc import places
from silc.durable import write_whole
from silc.errors import BadInput
from silc.given import Idle
from silc.settings import Device, Range, Settings
from silc.terminal import say

if TYPE_CHECKING:
    from benchmarks.measure import Row


@dataclass(frozen=True)
class BenchConfig(Settings):
    """Measure side by side, in one run, against the fastest code one would otherwise write."""

    idle: ClassVar[tuple[Idle, ...]] = (
        Idle("images", lambda c: not {"loader", "step", "all"} & set(c.parts), "neither loader nor step is measured"),
        Idle("profile", lambda c: not {"step", "all"} & set(c.parts), "no step is measured"),
        Idle("threads", lambda c: c.device.startswith("cuda"), "it computes on a GPU"),
    )
    parts: tyro.conf.Positional[tuple[str, ...]] = ("all",)
    """loader, step, losses, eval, start or all."""
    device: Annotated[str, Device()] = "auto"
    """Where to compute: auto, cpu, cuda or cuda:N."""
    images: str = ""
    """Tar shards of photographs for the loader, alone and feeding a step; without them it makes JPEGs of its own."""
    out: str = ""
    """File for the JSON; nothing is written without one."""
    threads: Annotated[int, Range(least=0, most=4096)] = 0
    """Of torch on a CPU; 0: as many as there are cores."""
    profile: str = ""
    """File for torch's profile of one training step; none is made without one."""

    @property
    def kind(self) -> str:
        """cpu or cuda."""
        from silc.distributed import place

        return place(self.device).type


PARTS: dict[str, tuple[tuple[str, str], ...]] = {
    "start": (("start", "rows"),),
    # Before the steps, which leave the process with gigabytes in pieces.
    "loader": (("loader", "rows"),),
    "losses": (("losses", "rows"), ("contrastive", "contrastive")),
    "step": (("step", "rows"),),
    "eval": (("evaluation", "rows"),),
}
"""What each part runs: functions of modules beside this one, imported when it is its turn."""


def chosen(names: Sequence[str]) -> list[str]:
    """Names of parts, `all` spelt out.

    Raises:
        BadInput: there is no such part.
    """
    for name in names:
        if name != "all" and name not in PARTS:
            raise BadInput(f"no part '{name}' of the benchmark; it has: {', '.join(PARTS)}, all")
    return list(PARTS) if "all" in names else list(names)


def check(config: BenchConfig) -> list[str]:
    """The parts to run; what is mistyped or cannot be written is told now, not in minutes. Imports no torch.

    Raises:
        BadInput: no such part, no such images, or a file that cannot be written.
    """
    parts = chosen(config.parts)
    if config.images:
        from silc.data.sources import expand

        expand(config.images)
    for flag, name in (("--out", config.out), ("--profile", config.profile)):
        if name:
            places.file(name, flag=flag)
    return parts


def run(config: BenchConfig) -> list[Row]:
    """Measure the parts asked for, in turn, saying which, and keep what there is after each row; rows by number.

    Raises:
        BadInput: as `check`, or a GPU is asked for and there is none.
    """
    parts = check(config)
    import torch

    from silc.distributed import place

    if (device := place(config.device)).type == "cuda":
        torch.cuda.set_device(device)  # the one that "cuda" means from here on
    if config.threads:
        torch.set_num_threads(config.threads)
    rows: list[Row] = []
    for part in parts:
        for row in _measured(part, config):
            rows.append(row)
            value = row.missing or f"{row.value:.3g} {row.unit}"
            say(f"bench {part}: {row.number} {row.what}: {value}", error=True)
            if config.out:
                write(
                    rows, environment(config), Path(config.out).expanduser()
                )  # at once: what fails later takes nothing along
    return sorted(rows, key=lambda row: row.number)


def _measured(part: str, config: BenchConfig) -> Iterator[Row]:
    start = time.perf_counter()
    for module, function in PARTS[part]:
        say(f"bench {part}: {module} ...", error=True)
        found = import_module(f"benchmarks.{module}")
        yield from getattr(found, function)(config)
    say(f"bench {part}: {time.perf_counter() - start:.0f} s", error=True)


def environment(config: BenchConfig) -> dict[str, Any]:
    """What a number needs beside it to be repeated."""
    import torch

    from silc.distributed import World
    from silc.training.fit import environment as here_of

    here = here_of(World(device=torch.device(config.kind)))
    return here | {"command": sys.argv[1:], "date": time.strftime("%Y-%m-%d")}


def write(rows: Sequence[Row], environment: dict[str, Any], file: Path) -> None:
    """Keep rows and what they were measured on."""
    lines = [asdict(row) | {"met": row.met} for row in sorted(rows, key=lambda row: row.number)]
    write_whole(file, json.dumps({"environment": environment, "rows": lines}, indent=1) + "\n")


def table(rows: Sequence[Row]) -> Table:
    """The rows as people read them."""
    lines = Table("#", "what", "value", "target", "met")
    for row in rows:
        met = "" if row.met is None else ("yes" if row.met else "no")
        value = row.missing or ("" if math.isnan(row.value) else f"{row.value:.3g} {row.unit}".strip())
        lines.add_row(str(row.number), row.what, value, str(row.target or ""), met)
    return lines
