"""Curves of a report: small plots as inline SVG, in the page's own colours; a model has one colour in all of them."""

from __future__ import annotations

import hashlib
import itertools
import math
import re
from collections import defaultdict
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from silc.eval.pictures import colour
from silc.eval.tasks import TASKS, brief, task_name
from silc.page import INK, bare, svg
from silc.records import COSTS
from silc.terminal import one_line

if TYPE_CHECKING:
    from collections.abc import Sequence

    from markupsafe import Markup

    from silc.records import Evaluation

SECTIONS = {
    "Losses": r"loss.*",
    "Teacher": r"teacher/.*",
    "Optimisation": r"lr|grad_norm|logit_.*|weight_decay|momentum",
    "Data and speed": r"samples_per_s|data_wait|bad/.*|skipped",
    "Other": r".*",
}
"""Sections of the training curves: a scalar goes to the first section whose pattern matches its whole name."""
POSITIONS = ("step", "epoch", "examples_seen", "train_flops", "time")
"""Keys that say where in training a record was written; they are not plotted."""
SIZE = (3.4, 2.0)
"""Width and height of a plot, in inches."""
COLOURS = ("#3b82f6", "#f97316", "#10b981", "#a855f7", "#ef4444", "#14b8a6", "#ca8a04", "#ec4899")
MAX_POINTS = 400
"""Most points of a line. Longer lines are cut into stretches, each shown by its minimum and its maximum."""


class Line(NamedTuple):
    """A curve, or points, of one panel."""

    model: str
    weights: str
    """The student's lines are dashed, its points hollow."""
    x: Sequence[float]
    y: Sequence[float]


class Panel(NamedTuple):
    """One small plot."""

    title: str
    lines: Sequence[Line]
    level: float | None = None
    """A dotted horizontal line: chance."""
    joined: bool = True
    """Whether the points of a line are stages of one run, and so are connected."""


Palette = Mapping[str, str]
"""A colour for each model, the same wherever it is drawn."""


def palette_of(models: Sequence[str]) -> Palette:
    """Colours for models, in the order of their first appearance."""
    more = ("#{:02x}{:02x}{:02x}".format(*colour(index)) for index in itertools.count(len(COLOURS)))
    return dict(zip(dict.fromkeys(models), itertools.chain(COLOURS, more), strict=False))


def training_curves(
    histories: Mapping[str, Sequence[Mapping[str, Any]]], palette: Palette
) -> list[tuple[str, list[Markup]]]:
    """(section, SVGs) of every number in the records, one small plot each with a line per run."""
    names = [name for name in _scalars(histories) if not name.startswith("eval/") and name not in POSITIONS]
    sections: dict[str, list[Panel]] = {section: [] for section in SECTIONS}
    for name in names:
        section = next(section for section, pattern in SECTIONS.items() if re.fullmatch(pattern, name))
        lines = [line for run, history in histories.items() if (line := _line(run, "", name, history)).x]
        if section == "Losses" or any(len(set(line.y)) > 1 for line in lines):  # a constant needs no plot
            sections[section].append(Panel(name, lines))
    return [(section, _drawn(panels, section, palette)) for section, panels in sections.items() if panels]


def score_curves(
    histories: Mapping[str, Sequence[Mapping[str, Any]]], evaluations: Sequence[Evaluation], palette: Palette
) -> list[Markup]:
    """SVGs of the headline metrics during training, with lines for teacher and student of every run."""
    chance = {
        (task_name(e.record.task, e.record.dataset), metric): 100 * value
        for e in evaluations
        for metric, value in e.record.chance.items()
    }
    panels: dict[tuple[str, str], list[Line]] = defaultdict(list)
    for key in _scalars(histories):
        match = re.fullmatch(r"eval/([^/]+)/(.+)/([^/]+)", key)
        if match and any(kind.compares(match[3]) for kind in TASKS.values() if match[2].endswith(f"-{kind.suffix}")):
            lines = [_line(run, match[1], key, history) for run, history in histories.items()]
            panels[match[2], match[3]] += [line._replace(y=[100 * y for y in line.y]) for line in lines if line.x]
    drawn = [_scored(*key, lines)._replace(level=chance.get(key)) for key, lines in panels.items()]
    return _drawn(drawn, "scores", palette)


def cost_plots(evaluations: Sequence[Evaluation], palette: Palette) -> list[tuple[str, list[Markup]]]:
    """(cost, SVGs) of the headline metrics of every model against its cost; empty if all models cost the same.

    Each model is a point. No line joins them, because the models are not stages of one run.
    """
    drawn = []
    for cost, (heading, _) in COSTS.items():
        points: dict[tuple[str, str], list[Line]] = defaultdict(list)
        for record in (evaluation.record for evaluation in evaluations):
            spent = getattr(record, cost)
            compared = filter(TASKS[record.task].compares, record.metrics)
            for metric in compared if spent is not None else ():
                task = task_name(record.task, record.dataset)
                score = 100 * record.metrics[metric]
                points[task, metric].append(Line(record.model or record.weights, record.weights, [spent], [score]))
        panels = [
            _scored(*key, lines)._replace(joined=False)
            for key, lines in points.items()
            if len({line.x[0] for line in lines}) > 1
        ]
        if panels:
            drawn.append((heading, _drawn(panels, heading, palette)))
    return drawn


def _scored(task: str, metric: str, lines: Sequence[Line]) -> Panel:
    return Panel(f"{task}: {brief(metric)} in %", lines)


def _scalars(histories: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[str]:
    """Names of the numbers in the records, in order of appearance."""
    return list(
        dict.fromkeys(
            name
            for record in itertools.chain.from_iterable(histories.values())
            for name, value in record.items()
            if isinstance(value, int | float) and not isinstance(value, bool)
        )
    )


def _line(model: str, weights: str, name: str, history: Sequence[Mapping[str, Any]]) -> Line:
    points = [
        (float(record.get("step", i)), float(record[name]))
        for i, record in enumerate(history)
        if isinstance(record.get(name), int | float) and math.isfinite(record[name])
    ]
    kept = thinned(points)
    return Line(model, weights, [x for x, _ in kept], [y for _, y in kept])


def thinned(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """At most `MAX_POINTS` of the points: the minimum and the maximum of each stretch, in order."""
    if len(points) <= MAX_POINTS:
        return list(points)
    stretches = MAX_POINTS // 2
    kept = []
    for i in range(stretches):
        own = points[i * len(points) // stretches : (i + 1) * len(points) // stretches]
        kept += sorted({min(own, key=lambda p: p[1]), max(own, key=lambda p: p[1])})
    return kept


def _drawn(panels: Sequence[Panel], section: str, palette: Palette) -> list[Markup]:
    """One SVG element per panel."""

    def drawn(panel: Panel) -> Markup:
        salt = hashlib.sha256(f"{section}/{panel.title}".encode(errors="replace")).hexdigest()
        return svg(lambda figure: _draw(figure.add_axes((0.14, 0.15, 0.83, 0.72)), panel, palette), SIZE, salt=salt)

    return [drawn(panel) for panel in panels]


def _draw(axes: Any, panel: Panel, palette: Palette) -> None:
    from matplotlib.ticker import EngFormatter  # imported here, as in page.py

    bare(axes, one_line(panel.title))
    axes.locator_params(axis="x", nbins=5)
    axes.xaxis.set_major_formatter(EngFormatter())  # 200 G; a common factor of the axis would lie below the drawing
    for line in panel.lines:
        colour, student = palette[line.model], line.weights == "student"
        style = ("--" if student else "-") if panel.joined else "none"
        marker = "." if panel.joined and len(line.x) < 12 else "" if panel.joined else "o"
        face = "none" if student and not panel.joined else colour
        axes.plot(line.x, line.y, color=colour, linewidth=1.3, linestyle=style, marker=marker, markerfacecolor=face)
    if panel.level is not None:
        axes.axhline(panel.level, color=INK, alpha=0.6, linewidth=0.9, linestyle=":")
