"""Models that are there, scored: what `silc.evaluate` and `silc eval` call, and the files and pages they leave."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from silc import checks, terminal
from silc import config as configs
from silc.distributed import join
from silc.eval import report, suite
from silc.eval.cache import Cache
from silc.eval.config import EvalConfig
from silc.eval.pictures import contact_sheet
from silc.eval.progress import evaluation_bar
from silc.eval.score_table import column_names, printed_table
from silc.eval.tables import distinct_names
from silc.loading import Loaded, Weights, load_any
from silc.models.silc import Encoder
from silc.predict import Model
from silc.rundir import CONFIG, is_run
from silc.training.log import history
from silc.types import BadInput

if TYPE_CHECKING:
    from silc.types import Evaluation

    Scored = str | Path | Encoder


def evaluate(
    source: Scored | Sequence[Scored],
    config: EvalConfig | None = None,
    *,
    device: str = "auto",
    cache: Path | None = None,
    tokenizer: Path | None = None,
    failed: suite.Failed = suite.refuse,
    **fields: Any,
) -> list[Evaluation]:
    """Score one or more models on the tasks asked for: runs (their newest checkpoint, student and/or teacher), imports
    and other people's checkpoints, named as for `silc.load`, and models in memory, such as `silc.load` gives.

    Without a root it is the one the first run was configured with. Under torchrun the ranks share the images of every
    task; the scores are those of a single process.

    Args:
        config: tasks and protocol.
        device: where to compute; a model in memory is scored where it is.
        cache: a folder that keeps results by weights, data and protocol; None computes all anew, and so does a model
            in memory, whose weights may have changed.
        tokenizer: for every named model that is no run, instead of its own; big_vision's have none.
        failed: called with a task that cannot be scored, weights and why; where it returns, the others are scored.
        fields: of EvalConfig, over those of `config`: root="data", tasks="*-zs", templates="plain".

    Returns:
        One evaluation per model, weights and task on the main rank, nothing on the others.

    Raises:
        BadInput: no such model, task, data, device or field; models in memory that cannot be told apart by their names;
            a task that cannot be scored, where `failed` is not given.
    """
    values = {f"eval.{name}": str(value) if isinstance(value, Path) else value for name, value in fields.items()}
    config = configs.override(configs.Config(eval=config or EvalConfig()), values).eval
    models = _several(source)
    named = [one for one in models if isinstance(one, str | Path)]
    if not named:
        _refuse_what_only_names_take(device != "auto", tokenizer is not None, "weights" in fields, cache is not None)
    if tokenizer is not None and all(is_run(one) for one in named):
        raise BadInput("tokenizer is for models that are no runs; these have the one they were trained with")
    config = checks.scoring(named, config)
    readers = _readers(models, config.weights, tokenizer)
    evaluations: list[Evaluation] = []
    with join(device) as world, evaluation_bar(world.is_main) as progress:
        evaluators = suite.tasks(config, progress.within, world, failed)
        for read in readers:
            loaded = read(world.device)
            scored = suite.run(
                loaded.models,
                evaluators,
                progress,
                examples_seen=loaded.examples_seen,
                train_flops=loaded.train_flops,
                cache=None if cache is None else Cache(cache),
                checksum=loaded.checksum,
                world=world,
                failed=failed,
            )
            evaluations += [_with_precision(evaluation, loaded.models) for evaluation in scored]
        return evaluations if world.is_main else []


def _with_precision(evaluation: Evaluation, models: Mapping[str, Encoder]) -> Evaluation:
    """The record says so where a model computed in another precision than float32."""
    record = evaluation.record
    model = models[record.weights]
    if not isinstance(model, Model) or model.dtype == torch.float32:
        return evaluation
    protocol = {**record.protocol, "precision": str(model.dtype).removeprefix("torch.")}
    return replace(evaluation, record=replace(record, protocol=protocol))


def _readers(
    models: Sequence[Scored], weights: Weights, tokenizer: Path | None
) -> list[Callable[[torch.device], Loaded]]:
    """What gives each model on a device.

    Raises:
        BadInput: what is no model; two in memory of one name and the same weights.
    """
    named = [one for one in models if isinstance(one, str | Path)]
    names = dict(zip(named, distinct_names(named), strict=True))
    readers: list[Callable[[torch.device], Loaded]] = []
    seen: set[tuple[str, str]] = set()
    for one in models:
        if isinstance(one, str | Path):
            own = None if is_run(one) else tokenizer
            readers.append(partial(_read, one, weights, own, names[one]))
        elif isinstance(one, Encoder):
            which = one.weights if isinstance(one, Model) else "in memory"
            if (one.name, which) in seen:
                raise BadInput(f"two models in memory are called {one.name!r}; give each a name: model.name = 'mine'")
            seen.add((one.name, which))
            readers.append(partial(_as_it_is, one, which))
        else:
            raise BadInput(f"a model is a path, a name or what `silc.load` gives, not {type(one).__name__}")
    return readers


def _as_it_is(model: Encoder, which: str, _: torch.device) -> Loaded:
    loss = model.contrastive if isinstance(model, Model) else "softmax"
    return Loaded({which: model}, None, None, "", loss)


def _read(source: str | Path, weights: Weights, tokenizer: Path | None, name: str, device: torch.device) -> Loaded:
    return load_any(source, weights=weights, tokenizer=tokenizer, name=name, device=device)


def _refuse_what_only_names_take(device: bool, tokenizer: bool, weights: bool, cache: bool) -> None:
    """
    Raises:
        BadInput: something was given that is not read for models in memory.
    """
    if device:
        raise BadInput("device is for models given by name; a model in memory is scored where it is: model.to(device)")
    if tokenizer or weights or cache:
        what = "tokenizer" if tokenizer else "weights" if weights else "cache"
        raise BadInput(f"{what} is for models given by name; leave it out for models in memory")


def _several(source: Any) -> list[Any]:
    return list(source) if isinstance(source, Sequence) and not isinstance(source, str) else [source]


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
        name: {path: value for path, value, _ in configs.fields(config) if path not in ("out", "resume", "extend")}
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
