"""Several machines, each a torchrun: one dies, hangs, is cut off, starts again, leaves, joins."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from scripts.ports import free_port

from .outcome import Row, alike, steps_done
from .run import SMALL, Node, Run, descendants

TIMEOUT = 4.0
"""`train.timeout` of the runs that hang."""
ENDLESS = ["--train.duration", "100000 steps", "--train.log-every", "1 steps", "--data.workers", "0"]
LONG = ["--train.duration", "400 steps", "--train.save-every", "20 steps", "--train.log-every", "1 steps"]
LONG += ["--data.workers", "0", "--train.timeout", "30"]
"""Long enough for a node to come and go."""


def hang(folder: Path, short: bool) -> Iterator[Row]:
    """One of two nodes dies, hangs, or is cut off: the other ends in time and names the rank."""
    tries = 1 if short else 5
    fields = [*SMALL, *ENDLESS, "--train.save-every", "never", "--train.timeout", str(TIMEOUT)]

    def two(out: Path, spaces: tuple[str, str] = ("", "")) -> list[Run]:
        port = free_port()
        places = {"first": spaces[0], "second": spaces[1]}
        nodes = [Node(name, port, space=space) for name, space in places.items()]
        if spaces[0]:
            addresses = zip(nodes, ("10.77.0.1", "10.77.0.2"), strict=True)
            nodes = [replace(node, address=address, first="10.77.0.1") for node, address in addresses]
        runs = [Run(out, *fields, node=node) for node in nodes]
        runs[0].wait_for(lambda: steps_done(out) > 8)
        return runs

    def ends(runs: list[Run], hurt: Callable[[], None], survivors: dict[int, int], limit: float) -> tuple[bool, float]:
        """Whether each survivor ends within the limit with a line that names the other, and the longest it took."""
        ranks = {i: runs[i].ranks()[0] for i in survivors}
        hurt()
        start, taken = time.monotonic(), 0.0
        for i in survivors:
            while not gone(ranks[i]) and time.monotonic() - start < 60:
                time.sleep(0.01)
            taken = max(taken, time.monotonic() - start)
        told = [f"rank {i} gives up: rank {other} did not" in runs[i].log.read_text() for i, other in survivors.items()]
        for run in runs:
            run.kill()
        return all(told) and taken < limit, taken

    for what, sent, limit in (("dead", signal.SIGKILL, 2.0), ("hung", signal.SIGSTOP, TIMEOUT + 2)):
        outcomes = []
        for i in range(tries):
            runs = two(folder / f"{what}-{i}")
            victims = [runs[1].process.pid, *descendants(runs[1].process.pid)]
            outcomes.append(ends(runs, lambda v=victims, s=sent: [os.kill(p, s) for p in v], {0: 1}, limit))  # type: ignore[misc]
        yield _ended(f"node {what}", outcomes, limit)

    outcomes = []
    for i in range(tries):
        with two_spaces() as spaces:
            if not spaces:
                yield Row("node cut off", 0, 0, "not run: it needs root and network namespaces")
                return
            runs = two(folder / f"cut-off-{i}", spaces)
            cut = partial(subprocess.run, ["ip", "-n", spaces[1], "link", "set", "inside", "down"], check=True)
            outcomes.append(ends(runs, cut, {0: 1, 1: 0}, TIMEOUT + 2))
    yield _ended("node cut off", outcomes, TIMEOUT + 2)


def gone(pid: int) -> bool:
    """Whether a process has ended, its parent's waiting for it not counted."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def _ended(what: str, outcomes: list[tuple[bool, float]], limit: float) -> Row:
    slowest = max(taken for _, taken in outcomes)
    figure = f"the other ended after at most {slowest:.2f} s (promised {limit:g}) and named it"
    return Row(what, len(outcomes), sum(well for well, _ in outcomes), figure)


@contextlib.contextmanager
def two_spaces() -> Iterator[tuple[str, str] | tuple[()]]:
    """Two network namespaces with a link between them, or nothing where this user may not make them."""
    names = (f"silc-{os.getpid()}-a", f"silc-{os.getpid()}-b")
    quiet: Any = {"stderr": subprocess.DEVNULL, "check": False}
    made = [subprocess.run(["ip", "netns", "add", name], **quiet).returncode for name in names]
    try:
        ends = [["inside", "netns", name] for name in names]
        pair = ["ip", "link", "add", *ends[0], "type", "veth", "peer", "name", *ends[1]]
        if any(made) or subprocess.run(pair, **quiet).returncode:
            yield ()
            return
        for i, name in enumerate(names, 1):
            for link in ("lo", "inside"):
                subprocess.run(["ip", "-n", name, "link", "set", link, "up"], check=True)
            subprocess.run(["ip", "-n", name, "addr", "add", f"10.77.0.{i}/24", "dev", "inside"], check=True)
        yield names
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], **quiet)


def nodes(folder: Path, short: bool) -> Iterator[Row]:
    """Ranks under two torchruns are killed, and both nodes start again together."""
    fields = [*SMALL, *LONG]
    whole = Run(folder / "whole", *fields)
    out, port = folder / "killed", free_port()
    runs = [Run(out, *fields, node=Node(name, port), restarts=6) for name in ("first", "second")]
    tries = 0
    for victim in (1,) if short else (1, 0, 1, 1):
        before = steps_done(out)
        if not runs[0].wait_for(lambda before=before: steps_done(out) > before + 5):  # type: ignore[misc]
            break
        tries += 1
        for pid in runs[victim].ranks():
            os.kill(pid, signal.SIGKILL)
    codes = [run.finish() for run in runs]
    whole.finish()
    well = codes == [0, 0] and alike(out, folder / "whole")
    figure = "both nodes started again and went on; losses those of 1 rank"
    yield Row("rank of one of 2 nodes killed", tries, tries * well, figure)


def elastic(folder: Path, short: bool) -> Iterator[Row]:
    """A node of two is killed with its torchrun, later another one joins."""
    fields = [*SMALL, *LONG]
    out, port = folder / "changed", free_port()
    first, second = (Run(out, *fields, node=Node(name, port, nodes="1:2"), restarts=6) for name in ("first", "second"))
    first.wait_for(lambda: _num_ranks(out) == 2 and steps_done(out) > 30)
    second.kill()
    fewer = first.wait_for(lambda: _num_ranks(out) == 1)
    second = Run(out, *fields, node=Node("second", port, nodes="1:2"), restarts=6)
    more = first.wait_for(lambda: _num_ranks(out) == 2)
    code = first.finish()
    Run(folder / "whole", *fields).finish()
    well = fewer and more and code == 0 and alike(out, folder / "whole")
    second.kill()
    yield Row("a node less, a node more", 1, int(well), "went on with 1, then 2 ranks; losses those of 1 rank")


def _num_ranks(out: Path) -> int:
    """Ranks of the latest start of a run."""
    with contextlib.suppress(OSError, ValueError):  # not there yet, or half written
        return int(json.loads((out / "env.json").read_text())["ranks"])
    return 0
