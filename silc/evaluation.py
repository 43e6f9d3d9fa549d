"""Score existing models: `silc.evaluate`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from silc import checks
from silc import config as configs
from silc.distributed import join
from silc.errors import BadInput
from silc.eval import suite
from silc.eval.cache import Cache
from silc.eval.config import EvalConfig
from silc.eval.figures import Column, Compared, check_ids, compared
from silc.eval.progress import evaluation_bar
from silc.eval.segment import ZeroShotSegmentation
from silc.eval.tables import distinct_names
from silc.loading import Loaded, Weights, load_any
from silc.models.silc import Encoder
from silc.predict import Model
from silc.training.directory import is_run

if TYPE_CHECKING:
    from silc.records import Evaluation

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
    """Score one or more models on the tasks asked for.

    A model is a run (its newest checkpoint, student and/or teacher), an import, another library's checkpoint (named as
    for `silc.load`), or a model in memory. An empty root is replaced by that of the first run's configuration. Under
    torchrun the ranks share the images of every task; the scores are those of a single process.

    Args:
        config: tasks and protocol.
        device: where to compute; a model in memory is scored where it is.
        cache: a folder that keeps results by weights, data and protocol; None keeps none. Models in memory are always
            computed anew, because their weights may have changed.
        tokenizer: replaces the tokenizer of every named model that is not a run; big_vision's files have none.
        failed: called with task, weights and error if a task cannot be scored; if it returns, the others are scored.
        fields: fields of EvalConfig that replace those of `config`: root="data", tasks="*-zs", templates="plain".

    Returns:
        One evaluation per model, weights and task on the main rank, an empty list on the others.

    Raises:
        BadInput: no such model, task, data, device or field; models in memory with the same name and weights; a task
            that cannot be scored, if `failed` is not given.
    """
    values = {f"eval.{name}": str(value) if isinstance(value, Path) else value for name, value in fields.items()}
    config = configs.override(configs.Config(eval=config or EvalConfig()), values).eval
    models = list(source) if isinstance(source, Sequence) and not isinstance(source, str) else [source]
    named = [one for one in models if isinstance(one, str | Path)]
    given = {"device": device != "auto", "tokenizer": tokenizer, "weights": "weights" in fields, "cache": cache}
    if not named and (unread := next((name for name, value in given.items() if value), "")):
        instead = "a model in memory is scored where it is: model.to(device)"
        instead = instead if unread == "device" else "leave it out for models in memory"
        raise BadInput(f"{unread} is for models given by name; {instead}")
    if tokenizer is not None and all(is_run(one) for one in named):
        raise BadInput("tokenizer is not for runs; these have the tokenizer that they were trained with")
    config = checks.scoring(named, config)
    readers = _readers(models, config.weights, tokenizer)
    evaluations: list[Evaluation] = []
    with join(device) as world, evaluation_bar(world.is_main) as progress:
        evaluators = suite.tasks(config, progress.within, world, failed)
        score = partial(suite.run, evaluators=evaluators, progress=progress, world=world, failed=failed)
        second = load_any(config.second, device=world.device) if config.second else None
        beside = second.best() if second else None
        for read in readers:
            one = read(device=world.device)
            if second:
                for encoder in one.models.values():
                    encoder.second = beside
            kept = None if cache is None else Cache(cache, one.checksum + (second.checksum if second else ""))
            scored = score(one.models, cache=kept, examples_seen=one.examples_seen, train_flops=one.train_flops)
            evaluations += [_with_precision(evaluation, one.models) for evaluation in scored]
        return evaluations if world.is_main else []


def figures(
    source: Scored | Sequence[Scored],
    config: EvalConfig,
    *,
    most: int,
    ids: Sequence[str] = (),
    device: str = "auto",
    tokenizer: Path | None = None,
    failed: suite.Failed = suite.refuse,
) -> list[Compared]:
    """Segmentations side by side on each set: of several models, or of one under several decoders or protocols.

    All models are in memory together; the first column is the baseline. Other arguments are those of `evaluate`.

    Args:
        most: images of a set to keep, those in which the others differ most from the baseline.
        ids: images to keep instead, by the names of their files without the ending.

    Returns:
        One comparison per set on the main rank, an empty list on the others.

    Raises:
        BadInput: as `evaluate`; there is only one column, or an image is in no set.
    """
    models = list(source) if isinstance(source, Sequence) and not isinstance(source, str) else [source]
    config = checks.scoring([one for one in models if isinstance(one, str | Path)], config)
    readers = _readers(models, config.weights, tokenizer)
    with join(device) as world, evaluation_bar(world.is_main) as progress:
        evaluators = suite.tasks(config, progress.within, world, failed)
        by_set: dict[str, list[ZeroShotSegmentation]] = {}
        for one in evaluators:
            if isinstance(one, ZeroShotSegmentation):
                by_set.setdefault(one.name, []).append(one)
        check_ids(ids, [own[0].data for own in by_set.values()])
        encoders = _together(readers, config, world.device)
        if any(len(encoders) * len(own) < 2 for own in by_set.values()):
            raise BadInput(
                "figures compare two or more results; here is one: one model, one kind of weights, one way of scoring"
            )
        found = []
        for name, tasks in by_set.items():
            own_ids = [one for one in ids if one in tasks[0].data.ids]
            if ids and not own_ids:
                continue
            try:
                found.append(compared(_columns(encoders, tasks), most, own_ids))
            except BadInput as error:
                failed(name, "", error)
        return found if world.is_main else []


def _together(
    readers: Sequence[Callable[..., Loaded]], config: EvalConfig, device: torch.device
) -> dict[tuple[str, str], Encoder]:
    """All models by name and weights, in memory at once, each with the second encoder if there is one."""
    second = load_any(config.second, device=device).best() if config.second else None
    found = {}
    for read in readers:
        for weights, encoder in read(device=device).models.items():
            encoder.second = second or encoder.second
            found[encoder.name, weights] = encoder
    return found


def _columns(encoders: Mapping[tuple[str, str], Encoder], tasks: Sequence[ZeroShotSegmentation]) -> list[Column]:
    """A column for each model and each task, named by the parts that differ."""
    parts = [
        ((model, weights, task.config.decoder, task.config.segmentation, Path(task.config.names).name), task, encoder)
        for (model, weights), encoder in encoders.items()
        for task in tasks
    ]
    differing = [len(set(values)) > 1 for values in zip(*(named for named, _, _ in parts), strict=True)]
    return [
        Column(
            " ".join(word for word, shown in zip(named, differing, strict=True) if shown), task, task.scorer(encoder)
        )
        for named, task, encoder in parts
    ]


def _with_precision(evaluation: Evaluation, models: Mapping[str, Encoder]) -> Evaluation:
    """Add the precision to the record if the model computed in another one than float32."""
    record = evaluation.record
    model = models[record.weights]
    if not isinstance(model, Model) or model.dtype == torch.float32:
        return evaluation
    protocol = {**record.protocol, "precision": str(model.dtype).removeprefix("torch.")}
    return replace(evaluation, record=replace(record, protocol=protocol))


def _readers(models: Sequence[Scored], weights: Weights, tokenizer: Path | None) -> list[Callable[..., Loaded]]:
    """For each model, a function that loads it onto a `device`.

    Raises:
        BadInput: something is not a model; two models in memory have the same name and weights.
    """
    named = [one for one in models if isinstance(one, str | Path)]
    names = dict(zip(named, distinct_names(named), strict=True))
    readers: list[Callable[..., Loaded]] = []
    seen: set[tuple[str, str]] = set()
    for one in models:
        if isinstance(one, str | Path):
            own = None if is_run(one) else tokenizer
            readers.append(partial(load_any, one, weights=weights, tokenizer=own, name=names[one]))
        elif isinstance(one, Encoder):
            which = one.weights if isinstance(one, Model) else "in memory"
            if (one.name, which) in seen:
                raise BadInput(f"two models in memory are called {one.name!r}; give each a name: model.name = 'mine'")
            seen.add((one.name, which))
            readers.append(partial(_as_it_is, one, which))
        else:
            raise BadInput(f"a model is a path, a name or what `silc.load` gives, not {type(one).__name__}")
    return readers


def _as_it_is(model: Encoder, which: str, *, device: torch.device) -> Loaded:
    loss = model.contrastive if isinstance(model, Model) else "softmax"
    return Loaded({which: model}, None, None, "", loss)
