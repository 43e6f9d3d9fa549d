"""One page with figures and every table of the paper for which runs have scores."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any

from silc.durable import write_whole
from silc.errors import BadInput
from silc.eval import tables
from silc.eval.curves import palette_of
from silc.page import INK, bare, data_uri, render, svg, webp

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from markupsafe import Markup
    from matplotlib.figure import Figure

    from silc.eval.tables import ModelRow, PaperTable

SHEETS = "segmentations.png"
"""Name of the file with a run's segmentations, beside its scores."""
WIDEST = 1600
"""Width in pixels to which a wider sheet of segmentations is shrunk."""


@dataclass(frozen=True)
class Paper:
    """Tables by name, and the names of tables without a run."""

    tables: Mapping[str, PaperTable]
    left_out: Sequence[str]
    """Names of tables that no run has a score for."""


def paper(runs: Sequence[Path]) -> Paper:
    """Lay runs out in every table of the paper that one of them has a score for, on the paper's sets or on others.

    Runs whose paths differ only in the number of a folder seed-N share a row: mean and standard deviation.

    Raises:
        BadInput: a run has no scores, or no run was scored on a task of the tables.
    """
    runs = list({run.absolute(): run for run in runs}.values())  # a run that is given twice is not two seeds
    names = tables.distinct_names([_seed_apart(tables.folder_of(run))[0] for run in runs])
    found = {name: _alone(name, tables.paper_table(name, runs, names)) for name in tables.NAMES}
    allowed = {
        name: _over_seeds(table) for name, table in found.items() if not all(row.published for row in table.rows)
    }
    if not allowed:
        raise BadInput(
            f"none of {', '.join(map(str, runs))} was scored on a task of the paper's tables; score one with `silc "
            "eval RUN --root DATA`"
        )
    return Paper(allowed, [name for name in found if name not in allowed])


SEED = re.compile(r"seed-\d+")


def _seed_apart(path: Path) -> tuple[Path, int | None]:
    """A path without its (last) folder seed-N, and that folder's position in the path; None if there is none."""
    parts = path.absolute().parts
    place = next((i for i, part in reversed([*enumerate(parts)]) if SEED.fullmatch(part)), None)
    return (path.absolute(), None) if place is None else (Path(*parts[:place], *parts[place + 1 :]), place)


def _alone(name: str, table: PaperTable) -> PaperTable:
    """A table without columns of tasks that the paper's table lacks, and without runs' rows that then have no score."""
    num = tables.num_columns(name)
    tasks = {column.task for column in table.columns[:num]}
    kept = [i for i, column in enumerate(table.columns) if column.task in tasks]
    rows = [replace(row, scores=[row.scores[i] for i in kept]) for row in table.rows]
    rows = [row for row in rows if row.published or any(score is not None for score in row.scores)]
    return replace(table, columns=[table.columns[i] for i in kept], rows=rows)


def _over_seeds(table: PaperTable) -> PaperTable:
    """A table with one row of means for all runs that differ only in their seed."""
    together: dict[Any, list[ModelRow]] = {}
    for number, row in enumerate(table.rows):
        path, place = (None, None) if row.run is None else _seed_apart(row.run)
        if place is None:
            together[number] = [row]
            continue
        name = re.sub(r"seed-\d+/|/seed-\d+(?=,|$)", "", row.name)  # rows of a file of scores have the names of models
        together.setdefault((name, place, path), []).append(replace(row, name=name))
    rows = [rows[0] if len(rows) == 1 else _mean(rows) for rows in together.values()]
    several = [rows for rows in together.values() if len(rows) > 1]
    notes = [note for rows in several for note in (*_fewer(rows, table), *_trained_unequally(rows))]
    return replace(table, rows=rows, notes=[*table.notes, *notes])


def _mean(rows: Sequence[ModelRow]) -> ModelRow:
    """One row for several seeds; each column is over the seeds that have a score in it."""
    columns, costs = (
        [[x for x in values if x is not None] for values in zip(*several, strict=True)]
        for several in ([row.scores for row in rows], [row.costs for row in rows])
    )
    return replace(
        rows[0],
        name=f"{rows[0].name} ({len(rows)} seeds)",
        scores=[fmean(scores) if scores else None for scores in columns],
        spread=[stdev(scores) if len(scores) > 1 else None for scores in columns],
        costs=[None if not values else values[0] if len(set(values)) == 1 else fmean(values) for values in costs],
    )


def _fewer(rows: Sequence[ModelRow], table: PaperTable) -> list[str]:
    """Notes on the columns for which only some seeds of a row have a score."""
    counts = [sum(score is not None for score in scores) for scores in zip(*(r.scores for r in rows), strict=True)]
    return [
        f"{rows[0].name}: {column.label} is of {count} of {len(rows)} seeds"
        for column, count in zip(table.columns, counts, strict=True)
        if 0 < count < len(rows)
    ]


def _trained_unequally(rows: Sequence[ModelRow]) -> list[str]:
    """A note where the seeds of a row did not see the same number of examples."""
    seen = sorted({row.costs[0] for row in rows if row.costs[0] is not None})
    return [f"{rows[0].name}: its seeds saw from {seen[0]:,} to {seen[-1]:,} examples"] if len(seen) > 1 else []


def write(found: Paper, runs: Sequence[Path], folder: Path) -> list[Path]:
    """Write paper.html and, beside it, each table as table-NAME.md, .html, .json and .tex."""
    files = [file for name, table in found.tables.items() for file in tables.write(table, folder / f"table-{name}")]
    page = folder / "paper.html"
    palette = palette_of([row.name for table in found.tables.values() for row in table.rows if not row.published])
    sheets = [(name, sheet) for name, run in _named(runs) if (sheet := _sheet(run)) is not None]
    drawn = [(name, table, _figure(name, table, palette)) for name, table in found.tables.items()]
    html = render(
        Path(__file__).with_name("paper.html.j2"),
        title="The paper's tables",
        drawn=drawn,
        left_out=found.left_out,
        sheets=sheets,
    )
    write_whole(page, html)
    return [page, *files]


def _named(runs: Sequence[Path]) -> list[tuple[str, Path]]:
    folders = [tables.folder_of(run) for run in runs]
    return list(zip(tables.distinct_names(folders), folders, strict=True))


def _sheet(run: Path) -> str | None:
    """A run's sheet of segmentations as a data URI; None if there is no such file.

    Raises:
        BadInput: the file is no picture.
    """
    from PIL import Image

    file = run / SHEETS
    if not file.is_file():
        return None
    try:
        with Image.open(file) as image:
            image.thumbnail((WIDEST, 4 * WIDEST))
            return data_uri(webp(image.convert("RGB"), 70))
    except OSError as error:
        raise BadInput(f"{file} is no picture that can be read; remove it, or score {run} again") from error


def _figure(name: str, table: PaperTable, palette: Mapping[str, str]) -> Markup:
    """Plot of a table: each column is a line, each score a point; published scores are rings in the page's colour."""
    columns = [i for i, _ in enumerate(table.columns) if any(row.scores[i] is not None for row in table.rows)]

    def draw(figure: Figure) -> None:
        axes: Any = figure.subplots()
        for row in table.rows:
            points = [
                (score, len(columns) - place) for place, i in enumerate(columns) if (score := row.scores[i]) is not None
            ]
            style = (
                {"facecolors": "none", "edgecolors": INK, "alpha": 0.6}
                if row.published
                else {"color": palette[row.name]}
            )
            axes.scatter(*zip(*points, strict=True), s=34, label=None if row.published else row.name, **style)
        axes.set_yticks(
            [len(columns) - place for place in range(len(columns))], [table.columns[i].label for i in columns]
        )
        axes.set_xlim(left=0)
        bare(axes, "score in %; rings are published")
        figure.legend(loc="outside right upper", frameon=False)

    return svg(draw, (9, 0.9 + 0.28 * len(columns)), salt=f"paper-{name}", layout="constrained")
