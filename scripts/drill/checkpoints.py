"""Checkpoints: killed while they are written, damaged afterwards, with no room left for them."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from silc import checkpoint

from .outcome import Row, same, step_of
from .run import SMALL, Run, descendants


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
        if not run.wait_for(lambda: step_of(root) > newest):  # noqa: B023
            break
        time.sleep(draw.uniform(0, 0.25))
        for pid in run.ranks():
            for victim in (pid, *descendants(pid)):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(victim, signal.SIGKILL)
        amid += any(root.glob(".partial-*"))
        before, newest = newest, step_of(root)
        survived += newest > before and _whole(root)
    run.kill()
    figure = f"{amid} of them left half a checkpoint behind; {newest} steps saved in all"
    yield Row(f"kill -9 around saving, {ranks} rank{'s' * (ranks > 1)}", tries, survived, figure)


def _whole(root: Path) -> bool:
    """The newest checkpoint loads, none is damaged, and `latest` leads to a whole one."""
    newest, damaged = checkpoint.newest_intact(root)
    if newest is None or damaged:
        return False
    checkpoint.read(newest)
    checkpoint.read((root / checkpoint.LATEST).resolve(strict=True))
    return True


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
            run.wait_for(lambda root=place / "run/checkpoints": step_of(root) > 2)  # type: ignore[misc]
            if hurt:
                subprocess.run(hurt, check=True)
            code = run.finish()
            lines = [line for line in run.log.read_text().splitlines() if line.startswith("silc: ")]
            intact = checkpoint.newest_intact(place / "run/checkpoints")[0] is not None
            said = lines[-1].replace(str(place), "OUT") if lines else "nothing said"
            yield Row(what, 1, int(code == 2 and len(lines) == 1 and intact), said)
        finally:
            subprocess.run(mend, check=True)
