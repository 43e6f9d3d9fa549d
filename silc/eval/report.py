"""The report for people: one self-contained report.html.

The page loads no other file: pictures are data URIs, plots inline SVG, and a few lines of script sort its tables. It is
complete without script. Beside every score stand its interval and the scores of chance and of the best constant answer.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from silc.durable import write_whole
from silc.eval.curves import cost_plots, palette_of, score_curves, training_curves
from silc.eval.score_table import MetricRow, column_names, paired, percent, score_table
from silc.eval.tasks import TASKS, brief, task_name
from silc.page import data_uri, render, webps
from silc.records import COSTS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from silc.records import Evaluation, Picture, Record

Named = Sequence[tuple[str, "Record"]]
"""Records, each with the name of its column."""
PICTURE_BYTES = 1_600_000
"""Limit for the bytes of a page's pictures, which base64 makes a third larger: the whole page stays below 3 MB."""


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
    palette = palette_of([*histories, *(record.model or record.weights for record in records)])
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
        models=palette,
        pairs=paired(table),
        costs=_costs(named),
        curves=training_curves(histories, palette),
        scores=score_curves(histories, evaluations, palette),
        by_cost=cost_plots(evaluations, palette),
        differing=_differing(settings or {}),
        runs=list(settings or {}),
        confused=_details(named, "most_confused"),
        class_tables=_class_tables(named),
        galleries=pictures,
        left_out=left_out,
        protocols=_protocols(named),
    )
    write_whole(path, page)


def _by_task(rows: Sequence[MetricRow]) -> list[tuple[str, list[MetricRow]]]:
    """(heading, rows) of each kind of task."""
    kinds = dict.fromkeys(row.task for row in rows)
    return [(TASKS[kind].title, [row for row in rows if row.task == kind]) for kind in kinds]


def _differing(settings: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, list[str]]]:
    """(setting, its value in each run) of the settings in which the runs differ."""
    paths = dict.fromkeys(path for own in settings.values() for path in own)
    rows = [(path, [str(own.get(path, "")) for own in settings.values()]) for path in paths]
    return [(path, values) for path, values in rows if len(set(values)) > 1]


def _costs(named: Named) -> list[str]:
    """The training cost of the weights, one sentence per cost."""
    same: dict[str, list[str]] = defaultdict(list)
    for name, record in named:
        spent = [(getattr(record, cost), *told) for cost, told in COSTS.items()]
        same[", ".join(f"{form.format(x)} {called}" for x, called, form in spent if x is not None)].append(name)
    return [f"{', '.join(dict.fromkeys(names))}: {cost}." for cost, names in same.items() if cost]


def _protocols(named: Named) -> list[tuple[str, str]]:
    """(tasks, settings) of each protocol used."""
    same: dict[tuple[str, str], list[str]] = defaultdict(list)
    for name, record in named:
        settings = ", ".join(f"{key}: {value}" for key, value in record.protocol.items())
        same[task_name(record.task, record.dataset), settings].append(name)
    return [(f"{task} · {', '.join(columns)}", settings) for (task, settings), columns in same.items()]


def _details(named: Named, what: str) -> list[tuple[str, list[tuple[str, Any]]]]:
    """[(task, [(column, this detail of its record)])], of the records that have it."""
    tasks: dict[str, list[tuple[str, Any]]] = defaultdict(list)
    for name, record in named:
        if detail := record.details.get(what):
            tasks[task_name(record.task, record.dataset)].append((name, detail))
    return list(tasks.items())


def _class_tables(named: Named) -> list[tuple[str, str, list[str], list[tuple[str, float, list[float | None]]]]]:
    """(task and measure, counted unit, columns, [(class, its share of the units, its measure in each column)])."""
    tables = []
    for detail, measure, title, part in (
        ("class_iou", "iou", "IoU by class", "pixels"),
        ("class_ap", "ap", "AP by class", "objects"),
        ("answer_type_accuracy", "accuracy", "accuracy by type of answer", "questions"),
        ("question_type_accuracy", "accuracy", "accuracy by type of question", "questions"),
    ):
        for task, columns in _details(named, detail):
            total = sum(row[part] for row in columns[0][1])
            by_class = [{row["class"]: row[measure] for row in rows} for _, rows in columns]
            rows = [
                (row["class"], row[part] / total, [column.get(row["class"]) for column in by_class])
                for row in columns[0][1]
            ]
            tables.append((f"{task}: {title}", part, [name for name, _ in columns], rows))
    return tables


class Figured(NamedTuple):
    """A picture in the page."""

    column: str
    source: str  # data URI
    width: int


Key = tuple[str, str]
"""Group and caption of a picture; the models' pictures under one key are shown side by side."""
Gallery = list[tuple[str, list[tuple[str, list[Figured]]]]]
"""[(group, [(caption, the picture of that caption by each model)])]."""


def galleries(evaluations: Sequence[Evaluation]) -> tuple[Gallery, int]:
    """The pictures by group and caption, and how many captions were left out to keep the page small."""
    names = column_names([evaluation.record for evaluation in evaluations])
    entries: dict[Key, list[tuple[str, Picture]]] = defaultdict(list)
    for name, evaluation in zip(names, evaluations, strict=True):
        for picture in evaluation.pictures:
            entries[picture.group, picture.caption].append((name, picture))
    images = {key: [picture.image for _, picture in own] for key, own in entries.items()}
    files = webps(images, PICTURE_BYTES)
    shown = _fitting({key: sum(map(len, own)) for key, own in files.items()})
    groups: dict[str, list[tuple[str, list[Figured]]]] = {group: [] for group, caption in entries}
    for group, caption in (key for key in entries if key in shown):
        own = zip(entries[group, caption], files[group, caption], strict=True)
        figures = [Figured(name, data_uri(file), picture.image.width) for (name, picture), file in own]
        groups[group].append((caption, figures))
    return [(group, kept) for group, kept in groups.items() if kept], len(entries) - len(shown)


def _fitting(sizes: Mapping[Key, int]) -> set[Key]:
    """The keys whose pictures fit the page, taken from the groups in turn, so that each group keeps some."""
    by_group: dict[str, list[Key]] = defaultdict(list)
    for key in sizes:
        by_group[key[0]].append(key)
    shown: set[Key] = set()
    total = 0
    for key in filter(None, itertools.chain(*itertools.zip_longest(*by_group.values()))):
        total += sizes[key]
        if total > PICTURE_BYTES:
            break
        shown.add(key)
    return shown
