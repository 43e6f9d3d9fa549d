"""Tables and plots of finished runs: mean and spread, and paired differences with an interval, seed by seed."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from evidence_queue import ROOT, Run, Study
from scipy.stats import t as student_t
from spread import Scores, into

from silc.eval.tasks import task_name

START, END = "<!-- evidence: written by scripts/evidence.py -->", "<!-- evidence: end -->"
WEIGHTS = ("student", "teacher")
Found = Mapping[tuple[str, str, str], Mapping[int, float]]
"""Scores in percent by (arm, weights, column), each by seed."""


class Paired(NamedTuple):
    """Differences of two arms on the seeds that both have."""

    differences: Sequence[float]

    @property
    def mean(self) -> float:
        """Of the differences."""
        return statistics.fmean(self.differences)

    @property
    def interval(self) -> tuple[float, float] | None:
        """95 % interval of the mean by Student's t; None for fewer than two pairs."""
        n = len(self.differences)
        if n < 2:
            return None
        half = float(student_t.ppf(0.975, n - 1)) * statistics.stdev(self.differences) / n**0.5
        return self.mean - half, self.mean + half

    @property
    def up(self) -> int:
        """Pairs in which the first arm is ahead."""
        return sum(one > 0 for one in self.differences)

    def __str__(self) -> str:
        found = self.interval
        between = f" [{found[0]:+.1f}, {found[1]:+.1f}]" if found else ""
        return f"{self.mean:+.1f}{between}, {self.up} of {len(self.differences)} up"


def collect(study: Study, result: Callable[[Run], Path]) -> tuple[Found, dict[str, float]]:
    """Scores of a study's finished runs, and what chance scores by column."""
    found: dict[tuple[str, str, str], dict[int, float]] = {}
    chance: dict[str, float] = {}
    for arm in study.arms:
        for seed in study.seeds:
            file = result(Run(study, arm, seed))
            for record in json.loads(file.read_text())["scores"] if file.exists() else ():
                for metric, value in record["metrics"].items():
                    task = task_name(record["task"], record["dataset"])
                    if column := study.columns.get(f"{task}/{metric}"):
                        found.setdefault((arm, record["weights"], column), {})[seed] = 100 * value
                        chance[column] = 100 * record["chance"][metric]
    return found, chance


def paired(found: Found, arm: str, other: str, weights: str, column: str) -> Paired | None:
    """An arm against another; where the other has no teacher, its student stands for it."""
    new = found.get((arm, weights, column), {})
    old = found.get((other, weights, column)) or found.get((other, "student", column), {})
    seeds = sorted(set(new) & set(old))
    return Paired([new[seed] - old[seed] for seed in seeds]) if seeds else None


def section(study: Study, found: Found, chance: Mapping[str, float], plot: str) -> list[str]:
    """Markdown of one study."""
    titles = list(study.columns.values())
    lines = [f"### {study.question}", "", f"Predicted before: {study.prediction}", ""]
    lines += [f"| arm | weights | seeds | {' | '.join(titles)} |", "| --- | --- | ---: |" + " ---: |" * len(titles)]
    for arm in study.arms:
        for weights in WEIGHTS:
            own = [found.get((arm, weights, title)) for title in titles]
            if any(own):
                cells = [str(Scores(list(one.values()))) if one else "" for one in own]
                lines.append(f"| {arm} | {weights} | {max(len(one) for one in own if one)} | {' | '.join(cells)} |")
    lines.append("| chance | | | " + " | ".join(f"{chance[t]:.1f}" if t in chance else "" for t in titles) + " |")
    lines += ["", "Paired differences, mean [95 % interval], and in how many pairs the arm is ahead:", ""]
    lines += [f"| arm | against | weights | {' | '.join(titles)} |", "| --- | --- | --- |" + " ---: |" * len(titles)]
    for arm, other in study.against.items():
        for weights in WEIGHTS:
            pairs = [paired(found, arm, other, weights, title) for title in titles]
            if any(pairs):
                cells = [
                    f"{one}{_apart(found, arm, other, weights, title)}" if one else ""
                    for one, title in zip(pairs, titles, strict=True)
                ]
                lines.append(f"| {arm} | {other} | {weights} | {' | '.join(cells)} |")
    return [*lines, "", *([study.answer, ""] if study.answer else []), f"![Scores of every seed]({plot})", ""]


def _apart(found: Found, arm: str, other: str, weights: str, column: str) -> str:
    """A mark where every seed of one arm beats every seed of the other."""
    new = list(found[arm, weights, column].values())
    old = list((found.get((other, weights, column)) or found[other, "student", column]).values())
    return " *" if min(len(new), len(old)) > 1 and (min(new) > max(old) or max(new) < min(old)) else ""


def draw(study: Study, found: Found, chance: Mapping[str, float], path: Path) -> None:
    """A panel for each column: a dot for each seed, and a line that joins the dots of one seed."""
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 2.4 * len(study.columns)), layout="constrained")
    panels = figure.subplots(len(study.columns), 1, sharex=True, squeeze=False)[:, 0]
    places = [
        (arm, weights)
        for arm in study.arms
        for weights in WEIGHTS
        if any((arm, weights, c) in found for c in study.columns.values())
    ]
    for axes, column in zip(panels, study.columns.values(), strict=True):
        axes.set_title(f"{column} in %", loc="left", fontsize=10)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", alpha=0.3)
        for number, seed in enumerate(study.seeds):
            heights = [found.get((*place, column), {}).get(seed, float("nan")) for place in places]
            axes.plot(
                range(len(places)), heights, "o-", color=f"C{number}", markersize=4, linewidth=0.8, label=f"seed {seed}"
            )
        if column in chance:
            axes.axhline(chance[column], color="#888", linestyle="--", linewidth=0.9)
        axes.set_xticks(range(len(places)), [f"{arm}\n{weights}" for arm, weights in places], fontsize=8)
    panels[0].legend(frameon=False, fontsize=8)
    FigureCanvasSVG(figure).print_svg(str(path), metadata={"Date": None})


def cpu_hours(kept: Sequence[Mapping[str, Any]]) -> float:
    """What finished runs cost; a run that several studies share was carried out once."""
    return sum({(one["recipe"], json.dumps(one["fields"])): one["cpu_seconds"] for one in kept}.values()) / 3600


def not_run(of: Sequence[Study], result: Callable[[Run], Path]) -> list[str]:
    """Markdown: how many runs are finished and what they cost, then arms and seeds without a result, a line a study."""
    every = [Run(study, arm, seed) for study in of for arm in study.arms for seed in study.seeds]
    kept = [json.loads(result(run).read_text()) for run in every if result(run).exists()]
    lines = [
        "### What was not run",
        "",
        f"{len(kept)} of {len(every)} runs are finished, in {cpu_hours(kept):.1f} CPU hours. Not run:",
        "",
    ]
    for study in of:
        waiting = {
            arm: seeds
            for arm in study.arms
            if (seeds := [str(seed) for seed in study.seeds if not result(Run(study, arm, seed)).exists()])
        }
        if waiting:
            arms = "; ".join(f"{arm}, seeds {', '.join(seeds)}" for arm, seeds in waiting.items())
            lines.append(f"* {study.name}: {arms}")
    return [*lines, ""]


def write_tables(of: Sequence[Study], result: Callable[[Run], Path]) -> None:
    """The section of docs/results.md and a plot of each study that has a finished run."""
    lines = [
        "## Evidence on generated objects with parts",
        "",
        "Scores in percent: mean and standard deviation over the seeds. Differences are taken seed by seed, as one",
        "seed gives two arms the same start and data; their interval is Student's. A star: every seed of one arm beats",
        "every seed of the other, the rule of the other tables here. docs/evidence has the queue, and each run's",
        "configuration and scores.",
        "",
    ]
    for study in of:
        found, chance = collect(study, result)
        if found:
            plot = ROOT / "docs/evidence" / f"{study.name}.svg"
            draw(study, found, chance, plot)
            lines += section(study, found, chance, f"evidence/{plot.name}")
    lines += not_run(of, result)
    document = ROOT / "docs/results.md"
    document.write_text(into(document.read_text(), "\n".join(lines), START, END))
    print(f"written: {document}")
