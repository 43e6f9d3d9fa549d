"""Runs that are killed, asked to stop or laid out anew, and go on: the end is that of an uninterrupted one."""

from __future__ import annotations

import os
import random
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path

from silc.training.log import history

from .outcome import Row, alike, same, step_of, steps_done
from .run import SMALL, Run


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
        kept = len(said) == 1 and step_of(out / "checkpoints") == steps_done(out) == int(said[0])
        # A launcher reports its ranks' exit codes in words.
        kept &= code == 143 if ranks == 1 else "exitcode: 143" in run.log.read_text() or whom != "rank"
        Run(out, *fields, ranks=2).finish()
        tries += 1
        survived += kept and (same(out, folder / "whole") if ranks == 2 else alike(out, folder / "whole"))
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
        survived += alike(out, folder / "whole")
    yield Row("FSDP2 <-> 1 <-> DDP", tries, survived, f"{changes} changes; loss of every step within 1e-5 of 1 rank's")
