"""Numbers that go wrong: NaN written into the memory of a running process, targets that collapse."""

from __future__ import annotations

import itertools
import json
import os
import re
import signal
import struct
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from silc import checkpoint
from silc.errors import BadInput
from silc.training.log import history

from .outcome import Row, step_of
from .run import PATIENCE, SMALL, Run


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
        run.wait_for(lambda out=out: step_of(out / "checkpoints") > 2)  # type: ignore[misc]
        places = poison(run, out)
        run.wait_for(lambda out=out: history(out)[-1]["skipped"] > 3)  # type: ignore[misc]
        for pid, address, value in places:
            write_memory(pid, address, value)
        at = history(out)[-1]
        run.wait_for(lambda out=out, at=at: step_of(out / "checkpoints") > at["step"] + 20)  # type: ignore[misc]
        run.kill()
        survived += bool(places) and _nothing_changed_while_skipping(out)
        skipped += history(out)[-1]["skipped"]
    yield Row("NaN on one of 2 ranks", tries, survived, f"{skipped} steps skipped on both; no byte changed in them")
    out = folder / "nan-for-good"
    run = Run(out, *fields, "--train.max-skips", "5", ranks=2)
    run.wait_for(lambda: step_of(out / "checkpoints") > 2)
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
            pattern = newest.state_dicts["teacher"]["visual.trunk.blocks.0.mlp.fc1.weight"].numpy().tobytes()[:256]
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
    steps = sorted(checkpoint.step_of(path) for path in checkpoint.find(out / "checkpoints"))
    moved_on = False
    for before, after in itertools.pairwise(steps):
        if before not in records or after not in records:
            continue
        a, b = (checkpoint.read(out / f"checkpoints/step-{step:08d}").state_dicts for step in (before, after))
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
