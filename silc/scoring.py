"""Models that are there, scored: what `silc.evaluate` and `silc eval` call, and the files and pages they leave."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from silc import checks, terminal
from silc import config as configs
from silc.distributed import join
from silc.eval import report, suite
from silc.eval.cache import Cache
from silc.eval.pictures import contact_sheet
from silc.eval.progress import evaluation_bar
from silc.eval.score_table import column_names, printed_table
from silc.eval.tables import distinct_names
from silc.predict import load_any
from silc.rundir import CONFIG, is_run
from silc.training.log import history
from silc.types import BadInput

if TYPE_CHECKING:
    from silc.eval.config import EvalConfig
    from silc.types import Evaluation


def evaluate(
    source: str | Path | Sequence[str | Path],
    config: EvalConfig,
    *,
    device: str = "auto",
    cache: Path | None = None,
    tokenizer: Path | None = None,
) -> list[Evaluation]:
    """Score one or more models on the tasks asked for: runs (their newest checkpoint, student and/or teacher), imports
    and other people's checkpoints, named as for `silc.load`.

    Without a root in `config` it is the one the first run was configured with. Under torchrun the ranks share the
    images of every task; the scores are those of a single process.

    Args:
        cache: a folder that keeps results by weights, data and protocol; None computes all anew.
        tokenizer: for every model that is no run, instead of its own; big_vision's have none.

    Returns:
        One evaluation per model, weights and task on the main rank, nothing on the others.

    Raises:
        BadInput: no such model, task, data or device.
    """
    models = _several(source)
    if tokenizer is not None and all(is_run(one) for one in models):
        raise BadInput("tokenizer is for models that are no runs; these have the one they were trained with")
    config = checks.scoring(models, config)
    evaluations: list[Evaluation] = []
    with join(device) as world, evaluation_bar(world.is_main) as progress:
        evaluators = suite.tasks(config, progress.within, world)
        for one, name in zip(models, distinct_names(models), strict=True):
            given = None if is_run(one) else tokenizer
            loaded = load_any(one, weights=config.weights, tokenizer=given, device=world.device, name=name)
            evaluations += suite.run(
                loaded.models,
                evaluators,
                progress,
                examples_seen=loaded.examples_seen,
                train_flops=loaded.train_flops,
                cache=None if cache is None else Cache(cache),
                checksum=loaded.checksum,
                world=world,
            )
        return evaluations if world.is_main else []


def _several(source: str | Path | Sequence[str | Path]) -> list[str | Path]:
    return [source] if isinstance(source, str | Path) else list(source)


def write_results(
    source: str | Path | Sequence[str | Path],
    evaluations: list[Evaluation],
    scores: str | Path | None = None,
    *,
    title: str,
    summary: str = "",
) -> tuple[list[Path], Path]:
    """Write records, a page and a sheet of segmentations (`checks.result_files` says where), and print the table.

    Args:
        source: the models, as they were given to `evaluate`.
        scores: the file of all records; None gives each model its own, scores.json in its directory.

    Returns:
        The files of records, and the report beside the first.

    Raises:
        BadInput: a file cannot be written, or none is named and a model is in no directory.
    """
    models = _several(source)
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
    terminal.page(printed_table(evaluations), width=120)  # a log has no edge: names are not cut there
    return list(files.scores), files.page


def _settings(named: Mapping[str | Path, str]) -> dict[str, dict[str, Any]]:
    """Every setting of each run but where it is, by the run's name."""
    runs = {name: configs.load(Path(one) / CONFIG) for one, name in named.items() if is_run(one)}
    return {
        name: {path: value for path, value, _ in configs.fields(config) if path not in ("out", "resume")}
        for name, config in runs.items()
    }


def _write_segmentations(evaluations: list[Evaluation], file: Path) -> None:
    """A contact sheet with an image a row and a model a column; none where nothing was segmented."""
    models = column_names([evaluation.record for evaluation in evaluations])
    overlays = [
        replace(picture, caption=f"{picture.caption}: {model}")
        for model, evaluation in zip(models, evaluations, strict=True)
        if evaluation.record.task == "zeroshot_segmentation"
        for picture in evaluation.pictures
    ]
    if overlays:
        # A stable sort keeps the models in order within an image.
        rows = sorted(overlays, key=lambda picture: (picture.group, picture.caption.partition(": ")[0]))
        contact_sheet(rows, columns=len(set(models))).save(file)
