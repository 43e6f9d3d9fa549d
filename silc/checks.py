"""Checks before the work starts: the place to write to, data, models, tasks. Imports no torch.

The command line calls them before it loads anything. The work calls them again, so that Python callers get the same
errors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from silc import config as configs
from silc import places, recipes
from silc.errors import BadInput
from silc.eval.asked import asked_for
from silc.eval.config import LOOK_TWICE, NEED_A_SECOND
from silc.eval.tasks import TASKS
from silc.interop.files import SAVED
from silc.kinds import those_that
from silc.rundir import check_model, check_same
from silc.training.directory import CONFIG, claim, is_run, no_run_to_go_on_with

if TYPE_CHECKING:
    from silc.config import Trained
    from silc.eval.config import EvalConfig

SCORES, REPORT, SEGMENTATIONS = "scores.json", "report.html", "segmentations.png"


def training(config: Trained) -> tuple[Path, bool]:
    """The directory of a run, and whether the run resumes there.

    Raises:
        BadInput: the directory cannot be written or holds something else, `init` is no model, or data to evaluate on is
            missing.
    """
    out, goes_on = claim(config.out, config.resume)
    if (out / SAVED).is_file():
        raise no_run_to_go_on_with(out)
    if config.extend and not goes_on:
        raise BadInput(f"{out} holds no run to extend; give the --out of one, or leave --extend out to begin one")
    if goes_on:
        check_same(out, config)
    else:
        origin(config)
        if isinstance(config, configs.DownstreamConfig) and config.weights != "auto" and not is_run(config.init):
            raise BadInput(
                f"{config.init} is no run with a student and a teacher; leave weights {config.weights!r} out"
            )
    if config.train.eval_every != "never":
        varied = (name for kind in TASKS.values() for name in kind.varies.split())
        several = [name for name in varied if "," in getattr(config.eval, name)]
        if several:
            raise BadInput(
                f"eval.{several[0]} lists several; name one for the scores during training, `silc eval` takes several"
            )
        asked_for(config.eval)
    return out, goes_on


def origin(config: Trained) -> None:
    """Check the model that a run is to start from.

    Raises:
        BadInput: it is no model, or the run needs one and none is named.
    """
    if config.init:
        check_model(config.init)
    elif not isinstance(config, configs.Config):
        raise BadInput(f"a head is trained on an existing model; name one: silc train {config.kind} --init MODEL")
    elif config.train.optim.lora:
        raise BadInput("train.optim.lora adapts a trained model; name one with --init, or leave it out")
    elif recipes.goes_on(config.recipe):
        raise BadInput(f"{config.recipe} goes on from a pre-trained run; name it with --init RUN")


def scoring(models: Sequence[str | Path], config: EvalConfig) -> EvalConfig:
    """The checked settings of an evaluation; an empty root is replaced by that of the first run's configuration.

    Raises:
        BadInput: no such model or task, or no data; see also `second_encoder`.
    """
    for one in models:
        check_model(one)
    runs = [Path(one) for one in models if is_run(one)]
    if not config.root and runs:
        config = replace(config, root=configs.load_of(runs[0] / CONFIG, those_that("load")).eval.root)
    if models or config.second:  # a model in memory may have its own second encoder
        second_encoder(config.decoder, config.second)
    if config.neighbours and "lposs" not in config.decoder:
        raise BadInput("only decoder lposs reads eval.neighbours; leave it out")
    asked_for(config)
    return config


def second_encoder(decoder: str, second: str) -> None:
    """Check the second encoder for decoders, whose names are joined by commas.

    Raises:
        BadInput: no decoder reads a second encoder, a decoder needs one that is not given, or it is no model.
    """
    names = {name.strip() for name in decoder.split(",")}
    if second and not names.intersection(LOOK_TWICE):
        raise BadInput(f"only decoders {' and '.join(LOOK_TWICE)} read eval.second; leave it out")
    if not second and (needing := names.intersection(NEED_A_SECOND)):
        raise BadInput(f"decoder {needing.pop()} needs a second encoder; give its name: --second MODEL (eval.second)")
    if second:
        check_model(second)


@dataclass(frozen=True)
class ResultFiles:
    """The files that an evaluation writes."""

    scores: Sequence[Path]
    """One file for all models, or one for each."""
    page: Path
    pictures: Path


def result_files(models: Sequence[str | Path], given: str | Path | None) -> ResultFiles:
    """The files of an evaluation, checked to be writable: FILE.json and FILE.html, or scores.json and report.html.

    Args:
        given: the file of all records; None gives each model its own, scores.json in its directory.

    Raises:
        BadInput: one cannot be written, or no file is named and a model is in no directory.
    """
    if given is not None:
        scores = [places.file(given)]
    else:
        for one in models:
            if not Path(one).is_dir():
                raise BadInput(f"{one} is in no directory that could keep its scores; give --out FILE.json")
        scores = [places.file(Path(one) / SCORES, flag="scores") for one in models]
    first = scores[0]
    plain = first.name == SCORES
    page = first.with_name(REPORT if plain else f"{first.stem}.html")
    pictures = first.with_name(SEGMENTATIONS if plain else f"{first.stem}.{SEGMENTATIONS}")
    if first in (page, pictures):
        raise BadInput(f"--out {first} is the name of a file that is written beside the scores; give FILE.json")
    if given is not None:
        places.beside(page, first, flag="the report")
        places.beside(pictures, first, flag="the pictures")
    return ResultFiles(scores, places.file(page, flag="the report"), places.file(pictures, flag="the pictures"))
