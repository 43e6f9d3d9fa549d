"""Write the results of an evaluation: files of records, a report, a sheet of segmentations, and the printed table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from silc import checks, terminal
from silc import config as configs
from silc.eval import figures, report, suite
from silc.eval.pictures import contact_sheet
from silc.eval.score_table import column_names, printed_table
from silc.eval.tables import distinct_names
from silc.eval.tasks import TASKS
from silc.kinds import KINDS
from silc.training.directory import CONFIG, is_run
from silc.training.log import history

if TYPE_CHECKING:
    from silc.eval.figures import Compared
    from silc.records import Evaluation


def write(
    models: Sequence[str | Path],
    evaluations: list[Evaluation],
    scores: str | Path | None = None,
    *,
    title: str,
    summary: str = "",
) -> tuple[list[Path], Path]:
    """Write records, a page and a sheet of segmentations (`checks.result_files` says where), and print the table.

    Args:
        models: as they were given to `evaluate`.
        scores: the file of all records; None gives each model its own, scores.json in its directory.

    Returns:
        The files of records, and the report beside the first.

    Raises:
        BadInput: a file cannot be written, or none is named and a model is in no directory.
    """
    named = dict(zip(models, distinct_names(models), strict=True))
    records = [evaluation.record for evaluation in evaluations]
    files = checks.result_files(models, scores)
    own = [records] if scores is not None else [[r for r in records if r.model == name] for name in named.values()]
    for file, mine in zip(files.scores, own, strict=True):
        file.parent.mkdir(parents=True, exist_ok=True)
        suite.write_scores(file, mine)
    histories = {name: history(Path(one)) for one, name in named.items()}
    report.write_report(
        files.page,
        title=title,
        summary=summary,
        evaluations=evaluations,
        histories=histories,
        settings=_settings(named),
    )
    _write_segmentations(evaluations, files.pictures)
    terminal.page(printed_table(evaluations), width=120)  # a log has no width, so names are not cut there
    return list(files.scores), files.page


def write_figures(found: Sequence[Compared], page: Path) -> list[Path]:
    """Write a page for each comparison beside a report: figures-TASK.html, or FILE.figures-TASK.html."""
    stem = "" if page.name == checks.REPORT else f"{page.stem}."
    files = [page.with_name(f"{stem}figures-{one.task}.html") for one in found]
    for file, one in zip(files, found, strict=True):
        figures.write_page(file, one)
    return files


def _settings(named: Mapping[str | Path, str]) -> dict[str, dict[str, Any]]:
    """Every setting of each run except where it is and how it resumes, by the run's name."""
    runs = {name: configs.load_of(Path(one) / CONFIG, KINDS) for one, name in named.items() if is_run(one)}
    return {
        name: {path: value for path, value, _ in configs.fields(config) if path not in ("out", "resume", "extend")}
        for name, config in runs.items()
    }


def _write_segmentations(evaluations: list[Evaluation], file: Path) -> None:
    """Write a contact sheet, one row per image and one column per model, if anything was segmented."""
    models = column_names([evaluation.record for evaluation in evaluations])
    overlays = [
        replace(picture, caption=f"{picture.caption}: {model}")
        for model, evaluation in zip(models, evaluations, strict=True)
        if TASKS[evaluation.record.task].on_sheet
        for picture in evaluation.pictures
    ]
    if overlays:
        # A stable sort keeps the models in order within an image.
        rows = sorted(overlays, key=lambda picture: (picture.group, picture.caption.partition(": ")[0]))
        contact_sheet(rows, columns=len(set(models))).save(file)
