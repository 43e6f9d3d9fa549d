"""Output of a run: metrics.jsonl and TensorBoard always, trackers if asked for, a progress bar or plain lines."""

from __future__ import annotations

import hashlib
import json
import math
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rich.progress import BarColumn, MofNCompleteColumn
from torch.utils.tensorboard.writer import SummaryWriter

from silc.durable import write_whole
from silc.extras import needs
from silc.terminal import console, progress, say, words

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import TracebackType

METRICS = "metrics.jsonl"
PROJECT = "silc"
"""The project's name in trackers."""
QUIET = 10.0
"""Seconds after which a run without a progress bar says that it is still at work."""


class Log:
    """Writes records of one run; only the main rank has one.

    Args:
        out: the run's directory.
        start, total: steps done before this process and steps of the whole run; records after `start` that an
            interrupted process left behind are dropped, since they will be made again.
        trackers: get every record, too.
        unit: what a sample is called.
    """

    def __init__(
        self, out: Path, *, start: int, total: int, trackers: Sequence[Tracker] = (), unit: str = "pairs"
    ) -> None:
        self.trackers, self.unit = trackers, unit
        self.out = out
        kept = [record for record in history(out) if record["step"] <= start]
        write_whole(out / METRICS, "".join(json.dumps(record) + "\n" for record in kept))
        self.jsonl = (out / METRICS).open("a")
        self.board = SummaryWriter(str(out / "tensorboard"), purge_step=start + 1)
        self.console = console()
        self.total = total
        self.bar = progress(
            self.console,
            BarColumn(),
            MofNCompleteColumn(),
            words("{task.fields[rate]}"),
            words("{task.fields[left]}"),
            words("{task.fields[losses]}"),
            disable=not self.console.is_terminal,
        )
        self.task = self.bar.add_task("train", total=total, completed=start, rate="", left="", losses="")
        self.said = time.monotonic()

    def __enter__(self) -> Log:
        self.bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bar.stop()
        self.jsonl.close()
        self.board.close()
        for tracker in self.trackers:
            tracker.finish()

    def record(self, record: Mapping[str, Any]) -> None:
        """Append one record to metrics.jsonl (NaN and infinity become null: JSON lacks them) and to TensorBoard."""
        finite = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in record.items()}
        self.jsonl.write(json.dumps(finite, allow_nan=False) + "\n")
        self.jsonl.flush()
        for name, value in record.items():
            if isinstance(value, int | float) and name != "step":
                self.board.add_scalar(name, value, record["step"])
        for tracker in self.trackers:
            tracker.record(record)

    def tick(self, step: int, *, eta_seconds: float) -> None:
        """Show that a step without a record is done; `eta_seconds` is 0 before the first record.

        Without a bar, a line says so if nothing was printed for `QUIET` seconds.
        """
        self.bar.update(self.task, completed=step, left=time_left(eta_seconds))
        if not self.console.is_terminal and time.monotonic() - self.said > QUIET:
            self._print(f"step {step}/{self.total}", eta_seconds)

    def step(self, record: Mapping[str, Any], *, eta_seconds: float) -> None:
        """Record a training step and show it."""
        self.record(record)
        rate = f"{record['samples_per_s']:.0f} {self.unit}/s"
        terms = {name.removeprefix("loss/"): value for name, value in record.items() if name.startswith("loss/")}
        losses = "  ".join(f"{name} {value:.3f}" for name, value in terms.items() if name != "total" or len(terms) == 1)
        losses += f"  lr {record['lr']:.2e}"
        self.bar.update(self.task, completed=record["step"], rate=rate, losses=losses, left=time_left(eta_seconds))
        if not self.console.is_terminal:
            self._print(f"step {record['step']}/{self.total}  {losses}  {rate}", eta_seconds)

    def _print(self, line: str, eta_seconds: float) -> None:
        say("  ".join(filter(None, [line, time_left(eta_seconds)])))
        self.said = time.monotonic()

    def keep(self, name: str, value: Any) -> Path:
        """Write a JSON file beside the metrics; returns its path."""
        file = self.out / name
        file.write_text(json.dumps(value, indent=1))
        return file

    def say(self, line: str) -> None:
        """Print one line for the user, above the progress bar."""
        self.console.print(line, soft_wrap=True)


class Tracker:
    """One run in W&B or trackio, which share one interface. A resumed run continues in the same tracker run.

    Args:
        name: which tracker.
        out: the run's directory; its name is the name in the tracker, its whole path makes the id.
        config: plain values, shown beside the curves.

    Raises:
        BadInput: the library is not installed.
    """

    def __init__(self, name: Literal["wandb", "trackio"], out: Path, config: Mapping[str, Any]) -> None:
        self.library = needs("train.trackers", name, "log")
        if name == "wandb":
            where = {"dir": str(out), "id": hashlib.sha256(str(out.resolve()).encode()).hexdigest()[:16]}
        else:
            where = {}  # trackio keeps a folder of its own and knows a run by its name
        self.library.init(project=PROJECT, name=out.name, config=dict(config), resume="allow", **where)

    def record(self, record: Mapping[str, Any]) -> None:
        """Pass on the finite numbers of one record."""
        numbers = {k: v for k, v in record.items() if isinstance(v, int | float) and math.isfinite(v)}
        self.library.log({k: v for k, v in numbers.items() if k != "step"}, step=record["step"])

    def finish(self) -> None:
        """Send the records that are left."""
        self.library.finish()


def time_left(seconds: float) -> str:
    """A time in words, "3m07s left" or "2h05m left"; empty where it is not known (0)."""
    if not seconds:
        return ""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02d}m left" if hours else f"{minutes}m{seconds:02d}s left"


def history(out: Path) -> list[dict[str, Any]]:
    """The records of a run so far; a last line cut by a crash is left out."""
    file = out / METRICS
    records = []
    for line in file.read_text().splitlines() if file.is_file() else []:
        try:
            records.append(json.loads(line))
        except ValueError:
            break
    return records
