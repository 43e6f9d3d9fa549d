"""Mean and spread over the seeds of scored runs, as tables and as sentences that claim nothing inside the spread."""

from __future__ import annotations

import json
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple


class Scores(NamedTuple):
    """One metric of one row and one kind of weights over the seeds, in percent."""

    values: Sequence[float]

    @property
    def mean(self) -> float:
        return statistics.fmean(self.values)

    @property
    def spread(self) -> float:
        """Standard deviation over the seeds."""
        return statistics.stdev(self.values) if len(self.values) > 1 else 0.0

    def __str__(self) -> str:
        return f"{self.mean:.1f} ± {self.spread:.1f}" if len(self.values) > 1 else f"{self.mean:.1f}"


class Cost(NamedTuple):
    """What a run of a row was trained with."""

    examples: int
    flops: float


Key = tuple[str, str, str]  # row, weights, column
Columns = Mapping[tuple[str, str], str]
"""Title of a column, by data set and metric."""


def collect(folders: Mapping[str, Path], columns: Columns) -> tuple[dict[Key, Scores], dict[str, float]]:
    """Scores of every finished run of every row, a folder of `seed-*` each, and what chance scores; in percent."""
    found: dict[Key, list[float]] = defaultdict(list)
    chance: dict[str, float] = {}
    for name, folder in folders.items():
        for file in sorted(folder.glob("seed-*/scores.json")):
            for record in json.loads(file.read_text()):
                for metric, value in record["metrics"].items():
                    column = columns.get((record["dataset"], metric))
                    if column:
                        found[name, record["weights"], column].append(100 * value)
                        chance[column] = 100 * record["chance"][metric]
    return {key: Scores(values) for key, values in found.items()}, chance


def costs(folders: Mapping[str, Path]) -> dict[str, Cost]:
    """Examples seen and training FLOPs of every row whose records tell them, by its first seed: they are alike."""
    found = {}
    for name, folder in folders.items():
        for file in sorted(folder.glob("seed-*/scores.json"))[:1]:
            record = json.loads(file.read_text())[0]
            if record.get("examples_seen") and record.get("train_flops"):
                found[name] = Cost(record["examples_seen"], record["train_flops"])
    return found


def table(
    rows: Mapping[str, str],
    titles: Sequence[str],
    scores: Mapping[Key, Scores],
    chance: Mapping[str, float],
    spent: Mapping[str, Cost] | None = None,
) -> list[str]:
    """Markdown: a line per row and weights, mean and standard deviation over the seeds; what they cost to the right."""
    heads = [*titles, *(("examples", "training FLOPs") if spent else ())]
    lines = ["| | weights | seeds | " + " | ".join(heads) + " |", "| --- | --- | ---: |" + " ---: |" * len(heads)]
    for name, label in rows.items():
        for weights in ("student", "teacher"):
            own = [scores.get((name, weights, title)) for title in titles]
            if any(own):
                seeds = max(len(one.values) for one in own if one)
                cells = [str(one) if one else "" for one in own]
                if spent:
                    cost = spent.get(name)
                    cells += [f"{cost.examples:,}", f"{cost.flops:.2e}"] if cost else ["", ""]
                lines.append(f"| {label} | {weights} | {seeds} | {' | '.join(cells)} |")
    level = " | ".join([f"{chance[title]:.1f}" if title in chance else "" for title in titles] + ["", ""] * bool(spent))
    return [*lines, f"| chance | | | {level} |"]


def differences(
    rows: Mapping[str, str], against: Mapping[str, str], titles: Sequence[str], scores: Mapping[Key, Scores]
) -> list[str]:
    """What each row changes to the one it is set against, and whether every seed of the one beats every other."""
    lines = []
    for name, before in against.items():
        for weights in ("student", "teacher"):
            said = []
            for title in titles:
                # A row without a teacher stands for both.
                new, old = scores.get((name, weights, title)), scores.get((before, weights, title))
                old = old or scores.get((before, "student", title))
                if new and old:
                    said.append(f"{title} {new.mean - old.mean:+.1f} ({_verdict(new, old)})")
            if said:
                lines.append(f"* {rows[name]}, {weights}, against {rows[before]}: {', '.join(said)}.")
    return lines


def _verdict(new: Scores, old: Scores) -> str:
    if min(len(new.values), len(old.values)) < 2:
        return "one seed says nothing"
    apart = min(new.values) > max(old.values) or max(new.values) < min(old.values)
    return f"{'outside' if apart else 'inside'} the spread"


def into(document: str, section: str, start: str, end: str) -> str:
    """A document with the section between its marks, at the end where it has none."""
    marked = f"{start}\n{section}{end}\n"
    if start not in document:
        return f"{document.rstrip()}\n\n{marked}".lstrip()
    before, rest = document.split(start, 1)
    return before + marked + rest.split(end, 1)[1].lstrip("\n")
