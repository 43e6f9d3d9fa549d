"""Table of scores: one column per model, with interval and chance; marks a score that is surely the best."""

from __future__ import annotations

import itertools
import re
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from silc.eval.bootstrap import difference
from silc.eval.tasks import TASKS, brief, task_name

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from silc.records import Evaluation, Record


@dataclass(frozen=True)
class MetricRow:
    """One metric of one task, for every model that was scored on it."""

    task: str  # as in a record
    dataset: str
    metric: str
    chance: float | None
    constant: float | None
    """Score of the best constant answer, if there is one."""
    scores: Mapping[str, float]  # by column
    num_images: int | None = None
    intervals: Mapping[str, Sequence[float]] = field(default_factory=dict)
    """95 % intervals, by column."""
    resampled: Mapping[str, Sequence[float]] = field(default_factory=dict)
    """Scores on the draws of the bootstrap, by column."""

    @property
    def best(self) -> set[str]:
        """The column with the highest score, if the intervals of its paired differences to all others lie above 0."""
        first = max(self.scores, key=lambda column: self.scores[column])
        others = self.scores.keys() - {first}
        gaps = [difference(self.resampled.get(first, ()), self.resampled.get(other, ())) for other in others]
        return {first} if others and all(gap is not None and gap[0] > 0 for gap in gaps) else set()

    @property
    def floor(self) -> float:
        """The score without skill: chance or the best constant answer."""
        return max(self.chance or 0.0, self.constant or 0.0)


@dataclass(frozen=True)
class ScoreTable:
    """Rows by task and data set, one column per model and weights."""

    columns: list[str]
    rows: list[MetricRow]


class Paired(NamedTuple):
    """Difference of two models on one metric, with its interval."""

    task: str
    metric: str
    column: str
    than: str
    difference: float
    low: float
    high: float

    @property
    def sure(self) -> bool:
        """Whether 0 lies outside the interval."""
        return self.low > 0 or self.high < 0


def score_table(evaluations: Sequence[Evaluation]) -> ScoreTable:
    """Lay out every score of every model, in the order of the tasks' first appearance."""
    names = column_names([evaluation.record for evaluation in evaluations])
    by_task: dict[tuple[str, str], dict[str, Evaluation]] = defaultdict(dict)
    for name, evaluation in zip(names, evaluations, strict=True):
        by_task[evaluation.record.task, evaluation.record.dataset][name] = evaluation
    rows = [
        _row(task, dataset, metric, own)
        for (task, dataset), own in by_task.items()
        for metric in dict.fromkeys(metric for evaluation in own.values() for metric in evaluation.record.metrics)
    ]
    return ScoreTable(list(dict.fromkeys(names)), rows)


def _row(task: str, dataset: str, metric: str, evaluations: Mapping[str, Evaluation]) -> MetricRow:
    """The row for one metric of one task, from the models' evaluations by column."""
    first = next(iter(evaluations.values())).record
    records = {column: evaluation.record for column, evaluation in evaluations.items()}
    return MetricRow(
        task,
        dataset,
        metric,
        chance=first.chance.get(metric),
        constant=first.chance.get(f"best_constant_{metric}"),
        scores={column: r.metrics[metric] for column, r in records.items() if metric in r.metrics},
        num_images=first.protocol.get("num_images"),
        intervals={column: r.intervals[metric] for column, r in records.items() if metric in r.intervals},
        resampled={column: e.resampled[metric] for column, e in evaluations.items() if metric in e.resampled},
    )


def paired(table: ScoreTable) -> list[Paired]:
    """Every model's difference to the first one, on the headline metrics that both were scored on."""
    found = []
    for row in (row for row in table.rows if TASKS[row.task].compares(row.metric)):
        than, *others = [column for column in table.columns if column in row.scores]
        for column in others:
            gap = difference(row.resampled.get(column, ()), row.resampled.get(than, ()))
            if gap is not None:
                apart = row.scores[column] - row.scores[than]
                found.append(Paired(task_name(row.task, row.dataset), row.metric, column, than, apart, *gap))
    return found


def column_names(records: Sequence[Record]) -> list[str]:
    """A short name per record: its weights. The model's name stands in front if there are several models, and the
    way of segmentation behind if there are several ways."""
    several = len({record.model for record in records}) > 1
    ways = ways_of([record.protocol for record in records])
    return [
        " ".join(part for part in (record.model if several else "", record.weights, way) if part) or "model"
        for record, way in zip(records, ways, strict=True)
    ]


def ways_of(protocols: Sequence[Mapping[str, Any]]) -> list[str]:
    """How each protocol segments, as far as the protocols differ: its decoder; its name with two sizes in pixels
    (shorter side of scaled images, side of windows); its list of class names."""
    decoders = [str(one.get("decoder", "cosine")) if "readout" in one else "" for one in protocols]
    windows = [f"{one.get('protocol')} {_sides(one)} px" if "readout" in one else "" for one in protocols]
    names = [str(one.get("names", "mmseg")) if "readout" in one else "" for one in protocols]
    shown = [way for way in (decoders, windows, names) if len(set(way) - {""}) > 1]
    return [" ".join(filter(None, own)) for own in zip(*shown, strict=True)] if shown else [""] * len(protocols)


def _sides(protocol: Mapping[str, Any]) -> str:
    """Pixels of the shorter side of images, if the record says it, and of windows: 448/448."""
    scaled = re.match(r"shorter side (\d+)", str(protocol.get("resize", "")))
    window = str(protocol.get("window"))
    return f"{scaled[1]}/{window}" if scaled else window


def percent(score: float | None) -> str:
    """A score in percent, with a second decimal below 1 %.

    >>> percent(0.4567), percent(0.005), percent(None)
    ('45.7', '0.50', '')
    """
    if score is None:
        return ""
    return f"{100 * score:.2f}" if 0 < score < 0.01 else f"{100 * score:.1f}"


WIDEST = 6
"""Limit for the number of models with a column each in the printed table."""


def printed_table(evaluations: Sequence[Evaluation]) -> Table:
    """The table for a terminal: the best score of a row is bold; scores no better than chance or a constant are dim.

    ± is half the 95 % interval. More than WIDEST models have a row each, of headline metrics alone.
    """
    table = score_table(evaluations)
    printed = Table(
        title="Scores in %, ± half the 95 % interval over images",
        title_justify="left",
        header_style="bold",
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    if len(table.columns) > WIDEST:
        return _turned(table, printed)
    printed.add_column("task", no_wrap=True)
    printed.add_column("metric", no_wrap=True)
    for column in table.columns:
        printed.add_column(column, justify="right")
    for header in ("chance", "best constant", "n"):
        printed.add_column(header, justify="right", style="dim")
    for name, rows in itertools.groupby(table.rows, key=lambda row: task_name(row.task, row.dataset)):
        for i, row in enumerate(rows):
            cells = [_styled(row, column) for column in table.columns]
            images = "" if row.num_images is None else str(row.num_images)
            outer = (percent(row.chance), percent(row.constant), "" if i else images)
            printed.add_row("" if i else name, brief(row.metric), *cells, *outer)
        printed.add_section()
    return printed


def _turned(table: ScoreTable, printed: Table) -> Table:
    for header in ("task", "metric", "model"):
        printed.add_column(header, no_wrap=True)
    for header in ("score", "chance", "n"):
        printed.add_column(header, justify="right", style="dim" if header != "score" else "")
    for row in (row for row in table.rows if row.metric in TASKS[row.task].headlines):
        outer = (percent(row.chance), "" if row.num_images is None else str(row.num_images))
        for i, column in enumerate(column for column in table.columns if column in row.scores):
            named = ("", "") if i else (task_name(row.task, row.dataset), brief(row.metric))
            printed.add_row(*named, column, _styled(row, column), *(("", "") if i else outer))
        printed.add_section()
    return printed


def _styled(row: MetricRow, column: str) -> Text:
    text = percent(row.scores.get(column))
    if text and column in row.intervals:
        low, high = row.intervals[column]
        text += f" ±{50 * (high - low):.1f}"
    low_score = bool(text) and row.scores[column] <= row.floor
    return Text(text, style="dim" if low_score else "bold" if column in row.best else "")
