"""Every table of the paper that runs have scores for, with figures, as one page."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
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

    from silc.eval.tables import PaperTable

SHEETS = "segmentations.png"
"""Beside a run's scores: its segmentations."""
WIDEST = 1600
"""Pixels to which a sheet of segmentations is brought down."""


@dataclass(frozen=True)
class Paper:
    """Tables by name, and runs that are in none."""

    tables: Mapping[str, PaperTable]
    left_out: Sequence[str]
    """Names of tables that no run has a score for."""


def paper(runs: Sequence[Path]) -> Paper:
    """Lay runs out in every table of the paper that one of them has a score for.

    Raises:
        BadInput: a run has no scores, or none of them any of the paper's.
    """
    found = {name: tables.paper_table(name, runs) for name in tables.NAMES}
    allowed = {name: table for name, table in found.items() if _has_own_scores(name, table)}
    if not allowed:
        raise BadInput(f"none of {', '.join(map(str, runs))} was scored on a set that the paper's tables have")
    return Paper(allowed, [name for name in found if name not in allowed])


def _has_own_scores(name: str, table: PaperTable) -> bool:
    """Whether one of one's own rows has a score in a published column."""
    num = tables.num_columns(name)
    return any(score is not None for row in table.rows if not row.published for score in row.scores[:num])


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
    folders = [run.parent if run.suffix == ".json" else run for run in runs]
    return list(zip(tables.distinct_names(folders), folders, strict=True))


def _sheet(run: Path) -> str | None:
    """A run's segmentations, as the address of a picture."""
    from PIL import Image

    file = run / SHEETS
    if not file.is_file():
        return None
    with Image.open(file) as image:
        image.thumbnail((WIDEST, 4 * WIDEST))
        return data_uri(webp(image.convert("RGB"), 70))


def _figure(name: str, table: PaperTable, palette: Mapping[str, str]) -> Markup:
    """Every score of a table as a point: a line for each column, published ones as rings in the page's colour."""
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
