"""Scores for people: one self-contained report.html, and the same table on a terminal.

The page loads nothing: pictures are data URIs, curves inline SVG, no script. Every score stands beside what chance,
and the best constant answer, would score.
"""

from __future__ import annotations

import base64
import hashlib
import io
import itertools
import json
import math
import re
import warnings
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from jinja2 import Environment, FileSystemLoader
from markupsafe import Markup
from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from silc.eval.suite import task_name
from silc.terminal import one_line

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from PIL import Image

    from silc.types import Evaluation, Record

TASKS = {
    "zeroshot_classification": "Zero-shot classification",
    "fewshot_classification": "Few-shot classification",
    "zeroshot_retrieval": "Image-text retrieval",
    "zeroshot_segmentation": "Zero-shot segmentation",
}
HEADLINES = ("acc1", "1shot_acc1", "10shot_acc1", "image_retrieval_recall@1", "text_retrieval_recall@1", "miou")
"""Metrics plotted along training; the table has them all."""
CURVES = {
    "Losses": r"loss.*",
    "Teacher": r"teacher/.*",
    "Optimisation": r"lr|grad_norm|logit_.*|weight_decay|momentum",
    "Data and speed": r"samples_per_s|data_wait|bad/.*|skipped",
    "Other": r".*",
}
"""Sections of the training curves: a scalar goes to the first whose pattern its whole name matches."""
POSITIONS = ("step", "epoch", "examples_seen", "train_flops", "time")
"""Records' keys that say where they are, and are not plotted."""
INK = "#0a0b0c"  # stands for the page's own text colour, dark or light
LINES = ("#3b82f6", "#f97316", "#10b981", "#a855f7", "#ef4444", "#14b8a6")


# --- the table --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """One metric of one task, for every model that was scored on it."""

    task: str  # as in a record
    dataset: str
    metric: str
    chance: float | None
    constant: float | None
    """Best constant answer, where there is one."""
    scores: Mapping[str, float]  # by column

    @property
    def best(self) -> set[str]:
        """Columns with the highest score; none where there is nothing to compare."""
        if len(self.scores) < 2 or self.metric.endswith("_std"):
            return set()
        return {column for column, score in self.scores.items() if score == max(self.scores.values())}

    @property
    def floor(self) -> float:
        """The score that takes no skill."""
        return max(self.chance or 0.0, self.constant or 0.0)


@dataclass(frozen=True)
class ScoreTable:
    """Rows by task and data set, one column per model and weights."""

    columns: list[str]
    rows: list[Row]


def score_table(evaluations: Sequence[Evaluation]) -> ScoreTable:
    """Lay out every score of every model, in the order of the tasks' first appearance."""
    names = column_names([evaluation.record for evaluation in evaluations])
    by_task: dict[tuple[str, str], dict[str, Record]] = defaultdict(dict)
    for name, evaluation in zip(names, evaluations, strict=True):
        by_task[evaluation.record.task, evaluation.record.dataset][name] = evaluation.record
    rows = []
    for (task, dataset), records in by_task.items():
        for metric in dict.fromkeys(metric for record in records.values() for metric in record.metrics):
            chance = next(iter(records.values())).chance
            scores = {name: record.metrics[metric] for name, record in records.items() if metric in record.metrics}
            constant = chance.get(f"best_constant_{metric}")
            rows.append(Row(task, dataset, metric, chance.get(metric), constant, scores))
    return ScoreTable(list(dict.fromkeys(names)), rows)


def column_names(records: Sequence[Record]) -> list[str]:
    """A short name per record: its weights, with the model's name in front where there are several models."""
    several = len({record.model for record in records}) > 1
    return [
        " ".join(part for part in (record.model if several else "", record.weights) if part) or "model"
        for record in records
    ]


def percent(score: float | None) -> str:
    """A score in percent, with a second decimal below 1 %.

    >>> percent(0.4567), percent(0.005), percent(None)
    ('45.7', '0.50', '')
    """
    if score is None:
        return ""
    return f"{100 * score:.2f}" if 0 < score < 0.01 else f"{100 * score:.1f}"


def printed_table(evaluations: Sequence[Evaluation]) -> Table:
    """The score table for a terminal; the best of a row is bold, what is no better than chance or a constant dim."""
    table = score_table(evaluations)
    printed = Table(
        title="Scores in %", title_justify="left", header_style="bold", box=SIMPLE_HEAD, padding=(0, 1, 0, 0)
    )
    printed.add_column("task", no_wrap=True)
    printed.add_column("metric", no_wrap=True)
    for column in table.columns:
        printed.add_column(column, justify="right")
    printed.add_column("chance", justify="right", style="dim")
    printed.add_column("best constant", justify="right", style="dim")
    for name, rows in itertools.groupby(table.rows, key=lambda row: task_name(row.task, row.dataset)):
        for i, row in enumerate(rows):
            cells = [_styled(row, column) for column in table.columns]
            printed.add_row("" if i else name, _brief(row.metric), *cells, percent(row.chance), percent(row.constant))
        printed.add_section()
    return printed


def _brief(metric: str) -> str:
    """The field's shorthand, which leaves room for the numbers on a terminal."""
    for name, short in (("image_retrieval_recall", "T2I R"), ("text_retrieval_recall", "I2T R")):
        metric = metric.replace(name, short)
    return metric.replace("mean_per_class_recall", "class mean")


def _styled(row: Row, column: str) -> Text:
    text = percent(row.scores.get(column))
    low = bool(text) and row.scores[column] <= row.floor
    return Text(text, style="dim" if low else "bold" if column in row.best else "")


# --- the page ---------------------------------------------------------------------------------------------------------


def write_report(
    path: Path,
    *,
    title: str,
    summary: str,
    evaluations: Sequence[Evaluation],
    histories: Mapping[str, Sequence[Mapping[str, Any]]],
) -> None:
    """Write a self-contained HTML page.

    Args:
        summary: what the run is, in plain sentences; an empty line starts a paragraph.
        evaluations: of any number of models and weights.
        histories: the records of metrics.jsonl by run; keys `eval/<weights>/<task>/<metric>` (`suite.scalars`) are
            drawn as scores along training, other numbers as curves.
    """
    environment = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True, trim_blocks=True)
    environment.filters["percent"] = percent
    table = score_table(evaluations)
    page = environment.get_template("report.html.j2").render(
        title=title,
        paragraphs=[paragraph for paragraph in summary.split("\n\n") if paragraph.strip()],
        table=table,
        sections=_by_task(table.rows),
        costs=_costs(evaluations),
        curves=training_curves(histories),
        scores=score_curves(histories, evaluations),
        by_cost=cost_curves(evaluations),
        confused=_confused(evaluations),
        class_tables=_class_tables(evaluations),
        galleries=_galleries(evaluations),
        protocols=_protocols(evaluations),
    )
    path.write_text(page, encoding="utf-8", errors="replace")


def _by_task(rows: Sequence[Row]) -> list[tuple[str, list[list[Row]]]]:
    """(heading, rows of each data set) of each kind of task."""
    return [
        (TASKS.get(task, task), [list(group) for _, group in itertools.groupby(same, key=lambda row: row.dataset)])
        for task, same in (
            (task, [row for row in rows if row.task == task]) for task in dict.fromkeys(row.task for row in rows)
        )
    ]


def _costs(evaluations: Sequence[Evaluation]) -> list[str]:
    """What the weights cost, one sentence per cost."""
    records = [evaluation.record for evaluation in evaluations]
    same: dict[str, list[str]] = defaultdict(list)
    for name, record in zip(column_names(records), records, strict=True):
        examples = "" if record.examples_seen is None else f"{record.examples_seen:,} examples seen"
        flops = "" if record.train_flops is None else f"{record.train_flops:.2e} training FLOPs"
        same[", ".join(filter(None, (examples, flops)))].append(name)
    return [f"{', '.join(dict.fromkeys(names))}: {cost}." for cost, names in same.items() if cost]


class Figured(NamedTuple):
    """A picture in the page."""

    column: str
    source: str  # data URI
    width: int


def _galleries(evaluations: Sequence[Evaluation]) -> list[tuple[str, list[tuple[str, list[Figured]]]]]:
    """(group, [(caption, the picture of that caption by each model)])."""
    names = column_names([evaluation.record for evaluation in evaluations])
    groups: dict[str, dict[str, list[Figured]]] = defaultdict(lambda: defaultdict(list))
    for name, evaluation in zip(names, evaluations, strict=True):
        for picture in evaluation.pictures:
            figured = Figured(name, _data_uri(picture.image), picture.image.width)
            groups[picture.group][picture.caption].append(figured)
    return [(group, list(entries.items())) for group, entries in groups.items()]


def _protocols(evaluations: Sequence[Evaluation]) -> list[tuple[str, str]]:
    """(tasks, settings) of each protocol used."""
    same: dict[str, list[str]] = defaultdict(list)
    names = column_names([evaluation.record for evaluation in evaluations])
    for name, evaluation in zip(names, evaluations, strict=True):
        record = evaluation.record
        task = task_name(record.task, record.dataset)
        same[json.dumps({"task": task} | dict(record.protocol))].append(name)
    protocols = []
    for text, columns in same.items():
        settings = json.loads(text)
        heading = f"{settings.pop('task')} · {', '.join(columns)}"
        protocols.append((heading, ", ".join(f"{key}: {value}" for key, value in settings.items())))
    return protocols


class Confused(NamedTuple):
    """A class and what it is taken for."""

    truth: str
    taken_for: str
    share: float


def _confused(evaluations: Sequence[Evaluation]) -> list[tuple[str, list[tuple[str, list[Confused]]]]]:
    """[(task, [(column, its most confused classes)])]."""
    names = column_names([evaluation.record for evaluation in evaluations])
    tasks: dict[str, list[tuple[str, list[Confused]]]] = defaultdict(list)
    for name, record in zip(names, (evaluation.record for evaluation in evaluations), strict=True):
        pairs = [Confused(p["truth"], p["taken_for"], p["share"]) for p in record.details.get("most_confused", ())]
        if pairs:
            tasks[task_name(record.task, record.dataset)].append((name, pairs))
    return list(tasks.items())


class ClassTable(NamedTuple):
    """IoU of every class of one data set, by each model."""

    task: str
    columns: list[str]
    rows: list[tuple[str, float, list[float | None]]]
    """(class, its share of the scored pixels, IoU by each model)."""


def _class_tables(evaluations: Sequence[Evaluation]) -> list[ClassTable]:
    names = column_names([evaluation.record for evaluation in evaluations])
    tasks: dict[str, list[tuple[str, Sequence[Mapping[str, Any]]]]] = defaultdict(list)
    for name, record in zip(names, (evaluation.record for evaluation in evaluations), strict=True):
        if "class_iou" in record.details:
            tasks[task_name(record.task, record.dataset)].append((name, record.details["class_iou"]))
    tables = []
    for task, columns in tasks.items():
        pixels = sum(row["pixels"] for row in columns[0][1])
        by_class = [{row["class"]: row["iou"] for row in rows} for _, rows in columns]
        rows = [
            (row["class"], row["pixels"] / pixels, [column.get(row["class"]) for column in by_class])
            for row in columns[0][1]
        ]
        tables.append(ClassTable(task, [name for name, _ in columns], rows))
    return tables


def _data_uri(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=85)
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"


# --- curves -----------------------------------------------------------------------------------------------------------


class Line(NamedTuple):
    """A curve of one panel."""

    name: str
    x: list[float]
    y: list[float]


class Panel(NamedTuple):
    """One small plot."""

    title: str
    lines: list[Line]
    level: float | None = None
    """A dashed horizontal line: chance."""


def training_curves(histories: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[tuple[str, Markup]]:
    """(section, SVG) of every number in the records, one small plot each with a line per run."""
    names = [name for name in _scalars(histories) if not name.startswith("eval/") and name not in POSITIONS]
    sections: dict[str, list[Panel]] = {section: [] for section in CURVES}
    for name in names:
        section = next(section for section, pattern in CURVES.items() if re.fullmatch(pattern, name))
        lines = [line._replace(name=run) for run, history in histories.items() if (line := _line(name, history)).x]
        if section == "Losses" or any(len(set(line.y)) > 1 for line in lines):  # a constant needs no plot
            sections[section].append(Panel(name, lines))
    return [(section, _svg(panels, columns=4)) for section, panels in sections.items() if panels]


def score_curves(
    histories: Mapping[str, Sequence[Mapping[str, Any]]], evaluations: Sequence[Evaluation]
) -> Markup | None:
    """SVG of the headline metrics along training, teacher and student of every run; None when there are none."""
    chance = {
        (task_name(e.record.task, e.record.dataset), metric): value
        for e in evaluations
        for metric, value in e.record.chance.items()
    }
    panels: dict[tuple[str, str], list[Line]] = defaultdict(list)
    for key in _scalars(histories):
        match = re.fullmatch(r"eval/([^/]+)/(.+)/([^/]+)", key)
        if match and match[3] in HEADLINES:
            for run, history in histories.items():
                x, y = _line(key, history)[1:]
                name = f"{run} {match[1]}" if len(histories) > 1 else match[1]
                if x:
                    panels[match[2], match[3]].append(Line(name, x, [100 * value for value in y]))
    drawn = []
    for (task, metric), lines in panels.items():
        level = chance.get((task, metric))
        drawn.append(Panel(f"{task}: {_short(metric)} in %", lines, None if level is None else 100 * level))
    return _svg(drawn, columns=3) if drawn else None


COSTS = {"examples_seen": "examples seen", "train_flops": "training FLOPs"}


def cost_curves(evaluations: Sequence[Evaluation]) -> list[tuple[str, Markup]]:
    """(cost, SVG) of the headline metrics of every model against what it cost; empty for models of one cost."""
    drawn = []
    for cost, heading in COSTS.items():
        points: dict[tuple[str, str], dict[str, list[tuple[float, float]]]] = defaultdict(lambda: defaultdict(list))
        for record in (evaluation.record for evaluation in evaluations):
            spent = getattr(record, cost)
            for metric in set(HEADLINES) & set(record.metrics) if spent is not None else ():
                task = task_name(record.task, record.dataset)
                points[task, metric][record.weights].append((spent, 100 * record.metrics[metric]))
        panels = [
            Panel(f"{task}: {_short(metric)} in %", [Line(name, *_columns(sorted(p))) for name, p in lines.items()])
            for (task, metric), lines in points.items()
            if len({spent for line in lines.values() for spent, _ in line}) > 1
        ]
        if panels:
            drawn.append((heading, _svg(panels, columns=3)))
    return drawn


def _columns(points: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    return [x for x, _ in points], [y for _, y in points]


def _short(metric: str) -> str:
    """A metric's name in a panel's title."""
    return metric.replace("_retrieval_recall", " R")


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


def _line(name: str, history: Sequence[Mapping[str, Any]]) -> Line:
    points = [
        (record.get("step", i), record[name])
        for i, record in enumerate(history)
        if isinstance(record.get(name), int | float) and math.isfinite(record[name])
    ]
    return Line(name, [float(x) for x, _ in points], [float(y) for _, y in points])


def _svg(panels: Sequence[Panel], columns: int) -> Markup:
    """Panels in a grid, as an SVG element in the page's own colours."""
    # Here, since scores are made without it: it takes long to import, and a borrowed machine may not have it.
    from matplotlib import rc_context
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    rows = math.ceil(len(panels) / columns)
    titles = "".join(panel.title for panel in panels)
    salt = hashlib.sha256(titles.encode(errors="replace")).hexdigest()  # ids must differ in a page
    colours = {f"{part}color": INK for part in ("axes.edge", "axes.label", "xtick.", "ytick.", "text.")}
    style: dict[Any, Any] = {
        "text.parse_math": False,
        "svg.fonttype": "none",
        "svg.hashsalt": salt,
        "font.size": 9,
        "axes.linewidth": 0.6,
    } | colours
    with rc_context(style), warnings.catch_warnings():
        # The browser has the letters that matplotlib's own font lacks.
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        figure = Figure(figsize=(11.5, 1.9 * rows), layout="constrained")
        figure.patch.set_alpha(0)
        for axes, panel in zip(figure.subplots(rows, columns, squeeze=False).flat, panels, strict=False):
            _draw(axes, panel)
        if any(len(panel.lines) > 1 or panel.level is not None for panel in panels):
            figure.axes[0].legend(fontsize=8, frameon=False)
        for axes in figure.axes[len(panels) :]:
            axes.remove()
        buffer = io.StringIO()
        FigureCanvasSVG(figure).print_svg(buffer, metadata={"Date": None})
    svg = buffer.getvalue()
    return Markup(svg[svg.index("<svg") :].replace(INK, "currentColor"))


def _shown(name: str) -> str:
    """In a legend; matplotlib leaves out what begins with an underscore."""
    return f" {one_line(name)}" if name.startswith("_") else one_line(name)


def _draw(axes: Any, panel: Panel) -> None:
    axes.set_title(one_line(panel.title), fontsize=9, loc="left")
    axes.patch.set_alpha(0)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color=INK, alpha=0.12, linewidth=0.5)
    axes.locator_params(axis="x", nbins=5)
    for line, colour in zip(panel.lines, itertools.cycle(LINES)):
        axes.plot(
            line.x, line.y, color=colour, linewidth=1.3, label=_shown(line.name), marker="." if len(line.x) < 12 else ""
        )
    if panel.level is not None:
        axes.axhline(panel.level, color=INK, alpha=0.6, linewidth=0.9, linestyle="--", label="chance")
