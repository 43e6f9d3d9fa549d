"""Scores for people: one self-contained report.html.

The page loads nothing: pictures are data URIs, plots inline SVG, and a few lines of script sort its tables; without
script it is whole. Every score stands beside its interval and what chance, and the best constant answer, would score.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from silc.durable import write_whole
from silc.eval.curves import Palette, cost_plots, score_curves, training_curves
from silc.eval.gallery import galleries
from silc.eval.score_table import Row, brief, column_names, paired, percent, score_table
from silc.eval.tasks import KINDS, task_name
from silc.page import render

if TYPE_CHECKING:
    from collections.abc import Mapping

    from silc.types import Evaluation, Record

Named = Sequence[tuple[str, "Record"]]
"""Records, each with the name of its column."""


def write_report(
    path: Path,
    *,
    title: str,
    summary: str,
    evaluations: Sequence[Evaluation],
    histories: Mapping[str, Sequence[Mapping[str, Any]]],
    settings: Mapping[str, Mapping[str, Any]] | None = None,
) -> None:
    """Write a self-contained HTML page of 3 MB at most.

    Args:
        summary: what the run is, in plain sentences; an empty line starts a paragraph.
        evaluations: of any number of models and weights.
        histories: the records of metrics.jsonl by run; keys `eval/<weights>/<task>/<metric>` (`suite.scalars`) are
            drawn as scores along training, other numbers as curves.
        settings: every setting of each run by its path ("train.optim.lr"); those in which runs differ are listed.
    """
    table = score_table(evaluations)
    records = [evaluation.record for evaluation in evaluations]
    palette = Palette([*histories, *(record.model or record.weights for record in records)])
    named = list(zip(column_names(records), records, strict=True))
    columns = dict(named)
    pictures, left_out = galleries(evaluations)
    page = render(
        Path(__file__).with_name("report.html.j2"),
        filters={"percent": percent, "brief": brief},
        title=title,
        paragraphs=[paragraph for paragraph in summary.split("\n\n") if paragraph.strip()],
        table=table,
        sections=_by_task(table.rows),
        colours={column: palette[record.model or record.weights] for column, record in columns.items()},
        students={column for column, record in columns.items() if record.weights == "student"},
        models=palette.colours,
        pairs=paired(table),
        costs=_costs(named),
        curves=training_curves(histories, palette),
        scores=score_curves(histories, evaluations, palette),
        by_cost=cost_plots(evaluations, palette),
        differing=_differing(settings or {}),
        runs=list(settings or {}),
        confused=_confused(named),
        class_tables=_class_tables(named),
        galleries=pictures,
        left_out=left_out,
        protocols=_protocols(named),
    )
    write_whole(path, page)


def _by_task(rows: Sequence[Row]) -> list[tuple[str, list[Row]]]:
    """(heading, rows) of each kind of task."""
    kinds = dict.fromkeys(row.task for row in rows)
    return [(KINDS[kind].heading, [row for row in rows if row.task == kind]) for kind in kinds]


def _differing(settings: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, list[str]]]:
    """(setting, its value in each run) of the settings in which the runs differ."""
    paths = dict.fromkeys(path for own in settings.values() for path in own)
    rows = [(path, [str(own.get(path, "")) for own in settings.values()]) for path in paths]
    return [(path, values) for path, values in rows if len(set(values)) > 1]


def _costs(named: Named) -> list[str]:
    """What the weights cost, one sentence per cost."""
    same: dict[str, list[str]] = defaultdict(list)
    for name, record in named:
        examples = "" if record.examples_seen is None else f"{record.examples_seen:,} examples seen"
        flops = "" if record.train_flops is None else f"{record.train_flops:.2e} training FLOPs"
        same[", ".join(filter(None, (examples, flops)))].append(name)
    return [f"{', '.join(dict.fromkeys(names))}: {cost}." for cost, names in same.items() if cost]


def _protocols(named: Named) -> list[tuple[str, str]]:
    """(tasks, settings) of each protocol used."""
    same: dict[str, list[str]] = defaultdict(list)
    for name, record in named:
        task = task_name(record.task, record.dataset)
        same[json.dumps({"task": task} | dict(record.protocol))].append(name)
    protocols = []
    for text, columns in same.items():
        settings = json.loads(text)
        heading = f"{settings.pop('task')} · {', '.join(columns)}"
        protocols.append((heading, ", ".join(f"{key}: {value}" for key, value in settings.items())))
    return protocols


def _confused(named: Named) -> list[tuple[str, list[tuple[str, Any]]]]:
    """[(task, [(column, its most confused classes)])]."""
    tasks: dict[str, list[tuple[str, Any]]] = defaultdict(list)
    for name, record in named:
        if pairs := record.details.get("most_confused"):
            tasks[task_name(record.task, record.dataset)].append((name, pairs))
    return list(tasks.items())


class ClassTable(NamedTuple):
    """IoU of every class of one data set, by each model."""

    task: str
    columns: list[str]
    rows: list[tuple[str, float, list[float | None]]]
    """(class, its share of the scored pixels, IoU by each model)."""


def _class_tables(named: Named) -> list[ClassTable]:
    tasks: dict[str, list[tuple[str, Sequence[Mapping[str, Any]]]]] = defaultdict(list)
    for name, record in named:
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
