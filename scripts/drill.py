"""Failure drill: real `silc train` processes, hurt from outside, and what survived.

    make drill                                   every scenario in full (about an hour on two slow cores)
    python scripts/drill.py --short              a few tries of each (minutes)
    python scripts/drill.py --only resume,saves  some of them

Nothing is raised inside the trained processes: they are killed, their files are damaged, their disk is filled, and
numbers are overwritten in their memory (Linux, as root). Prints a table (scenario, tries, survived, lost) and writes
OUT/drill.json; exit code 1 when anything was lost.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import itertools
import json
import os
import random
import re
import shutil
import signal
import socket
import statistics
import struct
import subprocess
import sys
import tarfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from silc import checkpoint, recipes
from silc.data.scenes import ScenePairs
from silc.distributed import World
from silc.losses.distill import perplexity
from silc.objective import SilcObjective
from silc.preprocess import Preprocess
from silc.training.alarm import CollapseAlarm
from silc.training.log import Log, history
from silc.training.optim import Optimizer
from silc.training.saver import Saver
from silc.types import BadInput, Batch, Hyper, Views

SMALL = [
    *("--model.image.size=16", "--model.image.patch=8", "--model.image.width=32", "--model.image.depth=1"),
    *("--model.image.heads=2", "--model.image.mlp=64", "--model.embed-dim=32", "--model.text.length=12"),
    *("--model.text.width=32", "--model.text.depth=1", "--model.text.heads=2", "--model.text.mlp=64"),
    *("--model.head.hidden=32", "--model.head.bottleneck=16", "--model.head.prototypes=24"),
    *("--data.scenes.num=96", "--data.scenes.size=24", "--data.crops.local-size=8", "--data.vocab-size=300"),
    *("--train.batch-size=16", "--train.precision=float32", "--train.device=cpu"),
]
"""A silc_c that makes tens of steps a second: six steps an epoch."""
PATIENCE = 180.0
"""Seconds to wait for something that must happen."""


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    scenario: str
    tries: int
    survived: int
    figure: str

    @property
    def lost(self) -> int:
        return self.tries - self.survived


class Run:
    """`silc train` in a process group of its own: alone, or under torchrun, or under one torchrun of several."""

    def __init__(
        self,
        out: Path,
        *fields: str,
        recipe: str = "silc_c-tiny",
        ranks: int = 1,
        restarts: int = 0,
        node: Node | None = None,
    ) -> None:
        launcher = [sys.executable, "-m"]
        if node or ranks > 1 or restarts:
            launcher += ["torch.distributed.run", f"--nproc-per-node={ranks}", "--monitor-interval=0.1"]
            launcher += [*(node.flags if node else ["--standalone"]), f"--max-restarts={restarts}", "-m"]
        if node and node.space:
            launcher = ["ip", "netns", "exec", node.space, *launcher]
        self.out = out
        command = [*launcher, "silc", "train", recipe, "--out", str(out), "--resume", "auto", *fields]
        out.parent.mkdir(parents=True, exist_ok=True)
        self.log = out.with_suffix(f".{node.name}.log" if node else ".log")
        environment = os.environ | {"OMP_NUM_THREADS": "1"} | (node.environment if node else {})
        with self.log.open("a") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, env=environment, start_new_session=True)

    def kill(self) -> None:
        """kill -9 of everything it started, loader workers and launcher included."""
        for pid in [self.process.pid, *descendants(self.process.pid)]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()

    def finish(self) -> int:
        """Wait for its end; the exit code."""
        return self.process.wait(timeout=20 * PATIENCE)

    def ranks(self) -> list[int]:
        """Process ids of the ranks, in rank order; the launcher's children."""
        return [pid for pid, parent in processes() if parent == self.process.pid]

    def wait_for(self, what: Callable[[], bool]) -> bool:
        """Wait until something holds, as long as it runs."""
        deadline = time.monotonic() + PATIENCE
        while not what():
            if self.process.poll() is not None or time.monotonic() > deadline:
                return False
            time.sleep(0.002)
        return True


@dataclass(frozen=True)
class Node:
    """One of the machines of a run: here a torchrun of its own, which meets the others at a port of the first."""

    name: str
    port: int
    nodes: str = "2"
    """How many there must be, or a range `1:2`."""
    space: str = ""
    """Network namespace it lives in; without one all nodes share this machine's loopback."""
    address: str = "127.0.0.1"
    first: str = "127.0.0.1"

    @property
    def flags(self) -> list[str]:
        host = str(self.name == "first").lower()
        return [
            *(f"--nnodes={self.nodes}", "--rdzv-backend=c10d", f"--rdzv-endpoint={self.first}:{self.port}"),
            *(f"--rdzv-conf=is_host={host},last_call_timeout=2", "--rdzv-id=drill", f"--local-addr={self.address}"),
        ]

    @property
    def environment(self) -> dict[str, str]:
        interface = {"GLOO_SOCKET_IFNAME": "inside" if self.space else "lo"}
        if ":" not in self.nodes:
            return interface
        # Else a node that joins a running group waits for an address that was told before it came (torch 2.15).
        return interface | {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}


def free_port() -> int:
    """A port nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def gone(pid: int) -> bool:
    """Whether a process has ended, its parent's waiting for it not counted."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def processes() -> Iterator[tuple[int, int]]:
    """(process, its parent), oldest first."""
    listing = subprocess.run(["ps", "-eo", "pid,ppid", "--sort=start_time"], capture_output=True, text=True, check=True)
    for line in listing.stdout.splitlines()[1:]:
        pid, parent = line.split()
        yield int(pid), int(parent)


def descendants(pid: int) -> list[int]:
    """Children, their children, and so on."""
    family, pairs = [pid], list(processes())
    for member in family:
        family += [child for child, parent in pairs if parent == member]
    return family[1:]


def steps_done(out: Path) -> int:
    """Last logged step of a run."""
    records = history(out)
    return records[-1]["step"] if records else 0


def everything(out: Path) -> tuple[dict[str, torch.Tensor], dict[str, object]]:
    """Tensors and state of the newest checkpoint."""
    saved = checkpoint.read(checkpoint.find(out / "checkpoints")[0])
    return {f"{part}/{name}": t for part, tensors in saved.parts.items() for name, t in tensors.items()}, saved.state


def same(a: Path, b: Path) -> bool:
    """Whether weights, moments, teacher, centre, generators, position and counts are equal, bit for bit."""
    (tensors, state), (others, other_state) = everything(a), everything(b)
    return (
        state == other_state
        and tensors.keys() == others.keys()
        and all(torch.equal(value, others[name]) for name, value in tensors.items())
    )


# The scenarios. Each takes the folder it may use and whether to make it short.


def resume(folder: Path, short: bool) -> Iterator[Row]:
    """Killed at random points and resumed, by ranks and workers: equal to the uninterrupted run, bit for bit."""
    draw = random.Random(0)
    steps = 40
    fields = [
        *SMALL,
        "--train.duration",
        f"{steps} steps",
        "--train.save-every",
        "3 steps",
        "--train.log-every",
        "1 steps",
    ]
    wholes = {}
    for ranks in (1,) if short else (1, 2):
        wholes[ranks] = Run(folder / f"whole-{ranks}", *fields, "--data.workers", "0", ranks=ranks)
        wholes[ranks].finish()
    kills = survived = tries = 0
    points: list[int] = []
    for ranks in wholes:
        for workers in (1,) if short else (0, 1, 2):
            out = folder / f"killed-{ranks}-{workers}"
            for _ in range(2 if short else 4):
                run = Run(out, *fields, "--data.workers", str(draw.choice((0, 1, 2))), ranks=ranks)
                start = steps_done(out)
                target = draw.randint(start, min(start + 12, steps - 2))
                if not run.wait_for(lambda out=out, target=target: steps_done(out) > target):  # type: ignore[misc]
                    break
                time.sleep(draw.uniform(0, 0.08))
                run.kill()
                kills += 1
                points.append(steps_done(out))
            Run(out, *fields, "--data.workers", str(workers), ranks=ranks).finish()
            tries += 1
            survived += same(out, folder / f"whole-{ranks}")
    epochs = sorted({point // 6 for point in points})
    yield Row("killed and resumed", tries, survived, f"{kills} kills, in epochs {epochs}; bitwise equal")
    if short:
        return
    out = folder / "changed-ranks"
    run = Run(out, *fields, ranks=2)
    run.wait_for(lambda: steps_done(out) > 20)
    run.kill()
    Run(out, *fields, ranks=1).finish()
    ours, theirs = history(out), history(folder / "whole-1")
    apart = max(
        abs(a["loss/total"] - b["loss/total"]) / abs(b["loss/total"]) for a, b in zip(ours, theirs, strict=True)
    )
    yield Row("2 ranks, then 1", 1, int(apart <= 1e-5), f"loss of every step within {apart:.0e} relative of 1 rank's")


def saves(folder: Path, short: bool) -> Iterator[Row]:
    """kill -9 of one torchrun's rank at random moments around saving; torchrun starts it again every time."""
    yield from _killed_while_saving(folder, ranks=1, tries=3 if short else 150)


def saves_of_two(folder: Path, short: bool) -> Iterator[Row]:
    """The same with two ranks."""
    yield from _killed_while_saving(folder, ranks=2, tries=3 if short else 50)


def _killed_while_saving(folder: Path, ranks: int, tries: int) -> Iterator[Row]:
    draw = random.Random(ranks)
    survived, amid, newest = 0, 0, 0
    out = folder / "run"
    fields = [*SMALL, "--train.duration", "100000 steps", "--train.save-every", "1 steps", "--train.keep", "2"]
    run = Run(out, *fields, "--train.log-every", "1000 steps", ranks=ranks, restarts=tries + 1)
    root = out / "checkpoints"
    for _ in range(tries):
        if not run.wait_for(lambda: _step_of(root) > newest):  # noqa: B023
            break
        time.sleep(draw.uniform(0, 0.25))
        for pid in run.ranks():
            for victim in (pid, *descendants(pid)):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(victim, signal.SIGKILL)
        amid += any(root.glob(".partial-*"))
        before, newest = newest, _step_of(root)
        survived += newest > before and _whole(root)
    run.kill()
    figure = f"{amid} of them left half a checkpoint behind; {newest} steps saved in all"
    yield Row(f"kill -9 around saving, {ranks} rank{'s' * (ranks > 1)}", tries, survived, figure)


def _step_of(root: Path) -> int:
    found = checkpoint.find(root)
    return int(found[0].name.removeprefix("step-")) if found else 0


def _whole(root: Path) -> bool:
    """The newest checkpoint loads, none is damaged, and `latest` leads to a whole one."""
    newest, damaged = checkpoint.newest_intact(root)
    if newest is None or damaged:
        return False
    checkpoint.read(newest)
    checkpoint.read((root / checkpoint.LATEST).resolve(strict=True))
    return True


def preempt(folder: Path, short: bool) -> Iterator[Row]:
    """Asked to stop at random points, alone or by rank or as a group, then resumed: the uninterrupted run's bits."""
    draw = random.Random(3)
    fields = [*SMALL, "--train.duration", "60 steps", "--train.save-every", "7 steps", "--train.log-every", "1 steps"]
    Run(folder / "whole", *fields, ranks=2).finish()
    tries = survived = 0
    slowest = 0.0
    for ranks, whom in [(2, "group")] if short else [(1, "group"), (2, "group"), (2, "launcher"), (2, "rank")] * 3:
        out = folder / f"asked-{tries}"
        run = Run(out, *fields, "--data.workers", "1", ranks=ranks)
        after = draw.randint(0, 40)
        run.wait_for(lambda out=out, after=after: steps_done(out) > after)  # type: ignore[misc]
        time.sleep(draw.uniform(0, 0.08))
        asked = time.monotonic()
        match whom:
            case "group":  # loader workers included
                os.killpg(run.process.pid, signal.SIGTERM)
            case "launcher":
                run.process.send_signal(signal.SIGTERM)
            case "rank":
                os.kill(draw.choice(run.ranks()), signal.SIGUSR1)
        code = run.finish()
        slowest = max(slowest, time.monotonic() - asked)
        said = re.findall(r"asked to stop: saved step (\d+) of 60", run.log.read_text())
        # Nothing was trained beyond what is saved, so nothing is trained twice.
        kept = len(said) == 1 and _step_of(out / "checkpoints") == steps_done(out) == int(said[0])
        # A launcher reports its ranks' exit codes in words.
        kept &= code == 143 if ranks == 1 else "exitcode: 143" in run.log.read_text() or whom != "rank"
        Run(out, *fields, ranks=2).finish()
        tries += 1
        survived += kept and (same(out, folder / "whole") if ranks == 2 else _alike(out, folder / "whole"))
    figure = f"slowest {slowest:.1f} s; 2 ranks' ends bitwise equal, 1 rank's within 1e-5 of 2's"
    yield Row("asked to stop", tries, survived, figure)


def reshard(folder: Path, short: bool) -> Iterator[Row]:
    """One run that is stopped and goes on in another layout each time: shares (FSDP2), one process, DDP, shares."""
    draw = random.Random(4)
    fields = [*SMALL, "--train.duration", "40 steps", "--train.save-every", "7 steps", "--train.log-every", "1 steps"]
    Run(folder / "whole", *fields).finish()
    tries = 1 if short else 3
    survived, changes = 0, 0
    for attempt in range(tries):
        out = folder / f"resharded-{attempt}"
        layouts = [(2, "full"), (1, "none"), (2, "none"), (2, "full"), (1, "none")]
        for ranks, sharding in layouts[:2] if short else layouts[:-1]:
            run = Run(out, *fields, "--train.sharding", sharding, ranks=ranks)
            after = steps_done(out) + draw.randint(0, 5)
            run.wait_for(lambda out=out, after=after: steps_done(out) > after)  # type: ignore[misc]
            os.killpg(run.process.pid, signal.SIGTERM)
            run.finish()
            changes += "asked to stop" in run.log.read_text()
        Run(out, *fields, ranks=layouts[-1][0]).finish()
        survived += _alike(out, folder / "whole")
    yield Row("FSDP2 <-> 1 <-> DDP", tries, survived, f"{changes} changes; loss of every step within 1e-5 of 1 rank's")


def _alike(a: Path, b: Path) -> bool:
    """Whether every step was trained once, its loss within 1e-5 relative."""
    ours, theirs = history(a), history(b)
    return [record["step"] for record in ours] == [record["step"] for record in theirs] and all(
        abs(x["loss/total"] - y["loss/total"]) <= 1e-5 * abs(y["loss/total"]) for x, y in zip(ours, theirs, strict=True)
    )


def corruption(folder: Path, short: bool) -> Iterator[Row]:
    """Each file of the newest checkpoint flipped, cut, removed or emptied: noticed, and the one before is used."""
    draw = random.Random(2)
    fields = [*SMALL, "--train.duration", "4 steps", "--train.save-every", "2 steps", "--train.log-every", "1 steps"]
    whole = folder / "whole"
    Run(whole, *fields).finish()
    names = sorted(file.name for file in (whole / "checkpoints/step-00000004").iterdir())
    harms = [(name, harm) for name in names for harm in ("flip", "cut", "remove", "empty")]
    tries = survived = 0
    for name, harm in draw.sample(harms, 2) if short else harms:
        out = folder / f"{harm}-{name}"
        shutil.copytree(whole, out, symlinks=True)
        damage(out / "checkpoints/step-00000004" / name, harm, draw)
        run = Run(out, *fields)
        tries += 1
        said = "set aside, going on from"
        survived += run.finish() == 0 and run.log.read_text().count(said) == 1 and same(out, whole)
    yield Row("damaged checkpoint", tries, survived, f"{len(names)} files, 4 kinds of damage; the end bitwise equal")


def damage(file: Path, harm: str, draw: random.Random) -> None:
    """Flip one bit, cut one byte off, remove or empty a file."""
    data = bytearray(file.read_bytes())
    match harm:
        case "flip":
            data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
            file.write_bytes(data)
        case "cut":
            file.write_bytes(data[:-1])
        case "remove":
            file.unlink()
        case "empty":
            file.write_bytes(b"")


def disk(folder: Path, short: bool) -> Iterator[Row]:
    """A disk fills up, or a folder becomes read-only, in the middle of a run: one line, earlier checkpoints intact."""
    for what, keep in (("disk full", "1000"), ("folder read-only", "2")):
        place = folder / what.replace(" ", "-")
        place.mkdir(parents=True)
        if what == "disk full":
            hurt, mend = [], ["umount", "--lazy", str(place)]
            ready = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "drill", str(place)], check=False)
        else:
            # Not even root writes into an immutable folder.
            hurt, mend = (["chattr", sign, str(place / "run/checkpoints")] for sign in ("+i", "-i"))
            ready = subprocess.run(["chattr", "=", str(place)], check=False)
        if ready.returncode:
            yield Row(what, 0, 0, "not run: it needs root and a file system that takes it")
            continue
        fields = [*SMALL, "--train.duration", "100000 steps", "--train.save-every", "1 steps", "--train.keep", keep]
        try:
            run = Run(place / "run", *fields)
            run.wait_for(lambda root=place / "run/checkpoints": _step_of(root) > 2)  # type: ignore[misc]
            if hurt:
                subprocess.run(hurt, check=True)
            code = run.finish()
            lines = [line for line in run.log.read_text().splitlines() if line.startswith("silc: ")]
            intact = checkpoint.newest_intact(place / "run/checkpoints")[0] is not None
            said = lines[-1].replace(str(place), "OUT") if lines else "nothing said"
            yield Row(what, 1, int(code == 2 and len(lines) == 1 and intact), said)
        finally:
            subprocess.run(mend, check=True)


def numbers(folder: Path, short: bool) -> Iterator[Row]:
    """One weight of one rank's teacher becomes NaN in memory: every rank skips; put back, training goes on."""
    fields = [
        *SMALL,
        "--train.duration",
        "100000 steps",
        "--train.save-every",
        "1 steps",
        "--train.log-every",
        "1 steps",
    ]
    tries, survived, skipped = 1 if short else 5, 0, 0
    for attempt in range(tries):
        out = folder / f"nan-{attempt}"
        run = Run(out, *fields, "--train.keep", "100000", "--train.max-skips", "100000", ranks=2)
        run.wait_for(lambda out=out: _step_of(out / "checkpoints") > 2)  # type: ignore[misc]
        places = poison(run, out)
        run.wait_for(lambda out=out: history(out)[-1]["skipped"] > 3)  # type: ignore[misc]
        for pid, address, value in places:
            write_memory(pid, address, value)
        at = history(out)[-1]
        run.wait_for(lambda out=out, at=at: _step_of(out / "checkpoints") > at["step"] + 20)  # type: ignore[misc]
        run.kill()
        survived += bool(places) and _nothing_changed_while_skipping(out)
        skipped += history(out)[-1]["skipped"]
    yield Row("NaN on one of 2 ranks", tries, survived, f"{skipped} steps skipped on both; no byte changed in them")
    out = folder / "nan-for-good"
    run = Run(out, *fields, "--train.max-skips", "5", ranks=2)
    run.wait_for(lambda: _step_of(out / "checkpoints") > 2)
    poison(run, out)
    stopped = run.finish() != 0 and (out / "not-finite.json").is_file()
    keys = json.loads((out / "not-finite.json").read_text())["keys"] if stopped else []
    named = [len(of_rank) for of_rank in keys]
    yield Row("NaN that stays", 1, int(named == [8, 8]), f"stopped after 5; names of the batch by rank: {named}")


def poison(run: Run, out: Path) -> list[tuple[int, int, bytes]]:
    """Overwrite the first weight of rank 1's teacher with NaN; (process, address, what was there) of each place."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        ranks = run.ranks()
        for pid in ranks:
            os.kill(pid, signal.SIGSTOP)
        try:
            # Between a save and the next update the memory holds what was saved.
            newest = checkpoint.read(checkpoint.find(out / "checkpoints")[0], only=("teacher",))
            pattern = newest.parts["teacher"]["visual.trunk.blocks.0.mlp.fc1.weight"].numpy().tobytes()[:256]
            places = [(ranks[1], address, pattern[:4]) for address in find_in_memory(ranks[1], pattern)]
            for pid, address, _ in places:
                write_memory(pid, address, struct.pack("<f", float("nan")))
        except (BadInput, IndexError, OSError):
            places = []
        finally:
            for pid in ranks:
                os.kill(pid, signal.SIGCONT)
        if places:
            return places
        time.sleep(0.05)
    return []


def find_in_memory(pid: int, pattern: bytes) -> list[int]:
    """Addresses in a process's own writable memory where a pattern lies."""
    found = []
    with Path(f"/proc/{pid}/maps").open() as maps, Path(f"/proc/{pid}/mem").open("rb", buffering=0) as memory:
        for line in maps:
            match = re.match(r"([0-9a-f]+)-([0-9a-f]+) rw", line)
            if match is None or line.rstrip().endswith(("[vvar]", "[vsyscall]")):
                continue
            start, end = (int(part, 16) for part in match.groups())
            try:
                memory.seek(start)
                data = memory.read(end - start)
            except (OSError, OverflowError):
                continue
            at = data.find(pattern)
            while at >= 0:
                found.append(start + at)
                at = data.find(pattern, at + 1)
    return found


def write_memory(pid: int, address: int, value: bytes) -> None:
    """Overwrite bytes in another process."""
    with Path(f"/proc/{pid}/mem").open("r+b", buffering=0) as memory:
        memory.seek(address)
        memory.write(value)


def _nothing_changed_while_skipping(out: Path) -> bool:
    """Checkpoints of skipped steps equal the one before them in every tensor; those after them move on, finite."""
    records = {record["step"]: record for record in history(out)}
    steps = sorted(int(path.name.removeprefix("step-")) for path in checkpoint.find(out / "checkpoints"))
    moved_on = False
    for before, after in itertools.pairwise(steps):
        if before not in records or after not in records:
            continue
        a, b = (checkpoint.read(out / f"checkpoints/step-{step:08d}").parts for step in (before, after))
        equal = all(torch.equal(a[part][name], b[part][name]) for part in a for name in a[part])
        skipped = records[after]["skipped"] > records[before]["skipped"]
        if equal != skipped:
            return False
        moved_on = not skipped and all(torch.isfinite(t).all() for t in b["model"].values())
    return moved_on


def collapse(folder: Path, short: bool) -> Iterator[Row]:
    """Without centring the alarm sounds within 200 steps; three healthy runs are silent."""
    fields = ["--train.duration", "40 steps" if short else "200 steps", "--train.log-every", "5 steps"]
    fields += ["--train.batch-size", "32", "--train.device", "cpu"]
    out = folder / "no-centring"
    run = Run(out, *fields, "--model.teacher.centre-momentum", "1.0")
    run.finish()
    heard = re.search(r"step (\d+): narrow collapse", run.log.read_text())
    yield Row("collapse, no centring", 1, int(bool(heard)), f"heard at step {heard[1]}" if heard else "not heard")
    healthy = 1 if short else 3
    runs = []
    for seed in range(healthy):
        runs.append(Run(folder / f"healthy-{seed}", *fields, "--train.seed", str(seed)))
        runs[-1].finish()
    silent = sum(" collapse: " not in run.log.read_text() for run in runs)
    lowest = min(record["teacher/perplexity"] for run in runs for record in history(run.out))
    yield Row("collapse, healthy", healthy, silent, f"lowest batch-marginal perplexity {lowest:.0f} of 512")


def overhead(folder: Path, short: bool) -> Iterator[Row]:
    """What the guards, the teacher's statistics, the logs and the checksums cost, in CPU time of the same steps.

    SILC-C with Ti/16 towers at 128 and 48 px, batch 8, 2 + 8 views; every step is logged, ten times as often as by
    default. The checksums are weighed against the steps of ten minutes, a short time between two saves.
    """
    torch.set_num_threads(1)
    config = recipes.get("silc_c-ti16")
    image = replace(config.model.image, size=128)
    config = replace(config, model=replace(config.model, image=image, head=replace(config.model.head, prototypes=4096)))
    objective = SilcObjective(
        config.model, config.objective, preprocess=Preprocess(128), world=World(), vocab_size=1000, eos_id=1
    )
    optimizer = Optimizer(config.train.optim, objective)
    hyper, alarm = Hyper(lr=1e-4, momentum=0.99, temperature=0.04), CollapseAlarm(4096, 16)
    draw = lambda *shape: torch.randint(0, 256, shape, dtype=torch.uint8)  # noqa: E731
    batch = Batch(
        Views(None, draw(2, 8, 3, 128, 128), draw(8, 8, 3, 48, 48)), torch.randint(2, 1000, (8, 64)), ["x"] * 8
    )
    steps, training, guarding = 2 if short else 10, 0.0, 0.0
    folder.mkdir(parents=True, exist_ok=True)
    with Log(folder, start=0, total=steps) as log:
        for step in range(1, steps + 1):
            start = time.process_time()
            out = objective(batch, hyper)
            out.loss.backward()
            norm = optimizer.clip()
            between = time.process_time()
            World().all_true(torch.stack([torch.isfinite(out.loss) & torch.isfinite(norm)]))
            guarded = time.process_time() - between
            between = time.process_time()
            optimizer.step(hyper)
            objective.after_step(out, hyper)
            optimizer.zero_grad()
            training += time.process_time() - between + (between - start) - guarded
            between = time.process_time()
            perplexity(torch.rand(4096).softmax(dim=-1))
            metrics = {name: float(value) for name, value in out.metrics.items()} | {"samples_per_s": 1.0, "lr": 1.0}
            alarm.check(step, metrics, hyper.momentum)
            log.step({"step": step} | metrics, eta_seconds=0.0)
            guarding += guarded + time.process_time() - between
    parts = {"model": objective.state_dict(), "optimizer": optimizer.state()}
    saved = checkpoint.write(folder / "checkpoints", 1, parts, {}, keep=1)
    start = time.process_time()
    checkpoint.verify(saved)
    hashing = (time.process_time() - start) / 600
    share = guarding / training + hashing
    figure = f"guards, statistics, logs {guarding / training:.2%} of a step of {training / steps:.1f} s; "
    yield Row("overhead below 2 %", 1, int(share < 0.02), figure + f"checksums {hashing:.3%} at a save in 10 min")


def asynchronous(folder: Path, short: bool) -> Iterator[Row]:
    """What training waits for when it saves, against a save it would wait for; and memory after many."""
    config = recipes.get("silc_c-ti16")
    objective = SilcObjective(
        config.model, config.objective, preprocess=Preprocess(256), world=World(), vocab_size=1000, eos_id=1
    )
    weights = objective.state_dict()
    moments = {f"{name}/{key}": torch.rand_like(w) for name, w in weights.items() for key in ("exp_avg", "exp_avg_sq")}
    parts, tries = {"model": weights, "optimizer": moments}, 3 if short else 10
    saver, behind, before = Saver(folder / "behind", 1, World()), [], []
    saver.save(0, parts, {})  # the first allocates the copy
    for step in range(1, tries + 1):
        saver.finish()
        start = time.monotonic()
        saver.save(step, parts, {})
        behind.append(time.monotonic() - start)
        saver.finish()
        start = time.monotonic()
        checkpoint.write(folder / "before", step, parts, {}, keep=1)
        before.append(time.monotonic() - start)
    blocked, whole = statistics.median(behind), statistics.median(before)
    size = sum(t.nbytes for tensors in parts.values() for t in tensors.values()) / 1e6
    figure = f"{size:.0f} MB: {blocked:.3f} s of {whole:.2f} s ({blocked / whole:.1%})"
    yield Row("training waits for < 10 % of a save", 1, int(blocked < 0.1 * whole), figure)
    fields = [*SMALL, "--train.duration", "100000 steps", "--train.save-every", "1 steps", "--train.keep", "1"]
    run = Run(folder / "many", *fields, "--train.log-every", "1000 steps", ranks=2)
    sizes = []
    for saved in (10, 60):
        run.wait_for(lambda saved=saved: _step_of(folder / "many/checkpoints") >= saved)  # type: ignore[misc]
        sizes.append([int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096 / 1e6 for pid in run.ranks()])
    run.kill()
    grown = max(late - early for early, late in zip(*sizes, strict=True))
    yield Row("50 saves in a row", 1, int(grown < 20), f"2 ranks; the one that grew most grew by {grown:.1f} MB")


def images(folder: Path, short: bool) -> Iterator[Row]:
    """Small files of 169 megapixels in five formats: refused in under 10 ms and 20 MB each."""
    script = Path(__file__).with_name("fuzz_images.py")
    done = subprocess.run([sys.executable, str(script), "bombs"], capture_output=True, text=True, check=True)
    bombs = json.loads(done.stdout)
    survived = sum(bomb["milliseconds"] < 10 and bomb["grown_mb"] < 20 for bomb in bombs.values())
    slowest, most = (max(bomb[what] for bomb in bombs.values()) for what in ("milliseconds", "grown_mb"))
    yield Row("decompression bombs", len(bombs), survived, f"at most {slowest:.2f} ms and {most:.0f} MB")


def remote(folder: Path, short: bool) -> Iterator[Row]:
    """Shards at a real nginx: that is slow, busy and cuts connections; away for a while; away for good. The end is that
    of a run on local files, bit for bit."""
    sys.path.insert(0, str(Path(__file__).parents[1]))
    from scripts.nginx import Nginx, missing

    if absent := missing():
        yield Row("remote shards", 0, 0, f"not run: {absent}")
        return
    shards, pattern, away = write_shards(folder / "shards"), "{00000..00003}.tar", 3.0 if short else 10.0
    fields = [*SMALL, "--data.source", "shards", "--data.index-cache", str(folder / "index")]
    fields += ["--train.duration", "60 steps", "--train.save-every", "5 steps", "--train.log-every", "1 steps"]
    with Nginx(folder / "nginx", shards) as server:
        for ranks in (1,) if short else (1, 2):
            whole = Run(folder / f"local-{ranks}", *fields, f"--data.train={shards}/{pattern}", ranks=ranks)
            whole.finish()
            for kind, cache in (("bad", "off"), ("bad", str(folder / f"cache-{ranks}"))):
                far = [*fields, "--data.train", server.url(kind, pattern), "--data.remote-cache", cache]
                before = len(server.requests())
                out = folder / f"{kind}-{ranks}-{'off' if cache == 'off' else 'kept'}"
                good = Run(out, *far, ranks=ranks).finish() == 0 and same(out, whole.out)
                met = Counter(status for status, *_ in server.requests()[before:])
                kept = "" if cache == "off" else ", cache on disk"
                figure = f"{met[206]} answers, {met[503]} times 503, {met[444]} times cut off; bitwise equal"
                yield Row(f"remote, bad server, {_ranks(ranks)}{kept}", 1, int(good), figure)
            far = [*fields, "--data.train", server.url("plain", pattern), "--data.remote-cache", "off"]
            run = Run(folder / f"away-{ranks}", *far, ranks=ranks)
            reached = run.wait_for(lambda out=run.out: steps_done(out) > 10)  # type: ignore[misc]
            server.stop()
            time.sleep(away)
            held = steps_done(run.out)
            server.start()
            good = reached and run.finish() == 0 and same(run.out, whole.out)
            figure = f"held up at step {held} of 60 for {away:.0f} s; bitwise equal"
            yield Row(f"remote, away and back, {_ranks(ranks)}", 1, int(good and held < 60), figure)
            run = Run(folder / f"gone-{ranks}", *far, "--data.remote-patience", "3", ranks=ranks)
            reached = run.wait_for(lambda out=run.out: steps_done(out) > 10)  # type: ignore[misc]
            server.stop()
            start, code = time.monotonic(), run.finish()
            took = time.monotonic() - start
            said = [line for line in run.log.read_text().splitlines() if line.startswith("silc: ")]
            server.start()
            # torchrun has an exit code of its own; each rank that met it says so.
            good = reached and code == (75 if ranks == 1 else 1) and 1 <= len(said) <= ranks
            good = good and "--resume auto" in said[0] and Run(run.out, *far, ranks=ranks).finish() == 0
            figure = f"exit code {code} after {took:.0f} s with 3 s of patience; resumed, bitwise equal"
            yield Row(f"remote, gone, {_ranks(ranks)}", 1, int(good and same(run.out, whole.out)), figure)


def _ranks(number: int) -> str:
    return f"{number} rank{'s' * (number > 1)}"


def write_shards(folder: Path) -> Path:
    """Four shards of 24 generated scenes."""
    folder.mkdir(parents=True)
    pairs = ScenePairs(96, 24, seed=0)
    for shard in range(4):
        with tarfile.open(folder / f"{shard:05d}.tar", "w") as tar:
            for index in range(24 * shard, 24 * shard + 24):
                pair, image = pairs[index], io.BytesIO()
                pair.image.save(image, "PNG")
                text = json.dumps({"captions": pair.captions}).encode()
                for kind, data in (("png", image.getvalue()), ("json", text)):
                    header = tarfile.TarInfo(f"{index:05d}.{kind}")
                    header.size = len(data)
                    tar.addfile(header, io.BytesIO(data))
    return folder


TIMEOUT = 4.0
"""`train.timeout` of the runs that hang."""
ENDLESS = ["--train.duration", "100000 steps", "--train.log-every", "1 steps", "--data.workers", "0"]


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


LONG = ["--train.duration", "400 steps", "--train.save-every", "20 steps", "--train.log-every", "1 steps"]
LONG += ["--data.workers", "0", "--train.timeout", "30"]
"""Long enough for a node to come and go."""


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
    well = codes == [0, 0] and _same_losses(out, folder / "whole")
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
    well = fewer and more and code == 0 and _same_losses(out, folder / "whole")
    second.kill()
    yield Row("a node less, a node more", 1, int(well), "went on with 1, then 2 ranks; losses those of 1 rank")


def _num_ranks(out: Path) -> int:
    """Ranks of the latest start of a run."""
    with contextlib.suppress(OSError, ValueError):  # not there yet, or half written
        return int(json.loads((out / "env.json").read_text())["ranks"])
    return 0


def _same_losses(out: Path, other: Path) -> bool:
    """Whether every step's loss is equal but for the order of sums: the batches are the same, in the same order."""
    ours, theirs = ([record["loss/total"] for record in history(path)] for path in (out, other))
    return len(ours) == len(theirs) and all(abs(a - b) <= 1e-5 * abs(b) for a, b in zip(ours, theirs, strict=True))


SCENARIOS: tuple[Callable[[Path, bool], Iterator[Row]], ...] = (
    *(resume, saves, saves_of_two, preempt, reshard, asynchronous, corruption, disk, numbers, collapse, images),
    *(remote, hang, nodes, elastic, overhead),
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
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
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
