"""A run of CAT-Seg: builds data, learner, schedule and scores from the configuration; the engine does the rest."""

from __future__ import annotations

import copy
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from silc import checks
from silc import config as configs
from silc.data.loader import Loader
from silc.data.quarantine import Samples
from silc.errors import BadInput
from silc.eval.datasets import SegmentationSet
from silc.eval.prompts import templates
from silc.heads import tuning
from silc.heads.catseg.aggregator import window_of
from silc.heads.catseg.config import CatSegConfig
from silc.heads.catseg.model import CatSeg, CatSegLearner
from silc.heads.catseg.predictor import CatSegModel, prompt_ids
from silc.heads.label_maps import Crops, LabelledImages, training_images
from silc.heads.run import (
    HeadScores,
    OnModel,
    along,
    evaluation_world,
    finished,
    loader_plan,
    model_below,
    rates,
    settled,
    size_in_patches,
    with_towers,
)
from silc.training.fit import fit
from silc.training.flops import FlopCounter
from silc.training.protocols import Run, RunContext
from silc.training.sharding import unsharded

if TYPE_CHECKING:
    from torch import Tensor

    from silc.loading import Loaded
    from silc.predict import Model


def train(config: CatSegConfig) -> Path:
    """Train CAT-Seg to the end and return the run's directory.

    Raises:
        BadInput: the configuration, the data, or what `out` or `init` hold cannot be used.
        Preempted: this rank or another was asked to stop; the progress is saved.
    """
    if not config.data.train or not config.init:
        raise BadInput("catseg needs a model and images with label maps: --init MODEL --data.train FOLDER")
    return fit(config.train, checks.training(config), partial(compose, config))


def compose(config: CatSegConfig, context: RunContext) -> Run:
    """Build all that the engine needs; every rank calls this.

    Raises:
        BadInput: the model or the data cannot be used; the training is shorter than a step.
    """
    world, config = evaluation_world(context), settled(config, context)
    tasks = along(config, world)
    scored = [data for task in tasks for data in task.sets if isinstance(data, SegmentationSet)]
    data = training_images(config.data.train, config.data.split, config.data.exif_orientation, scored)
    below = model_below(config, world.device)
    model = below.best()
    torch.manual_seed(config.train.seed)  # the same weights on every rank
    module, said = tuned(config, model, len(data.classes))
    ids = prompt_ids(model, data.classes, config.templates)
    plan = loader_plan(config.train, config.data.workers)
    crops = Crops(config.crop, data.ignore, config.data.colours)
    loader = Loader(LabelledImages(data), crops, plan, context.world)
    batches = OnModel(loader, {"model": below.checksum, "classes": len(data.classes)})
    learner = CatSegLearner(module, ids, config.tower_lr, config.train.micro_batch)

    def whole() -> CatSeg:
        return unsharded(module, lambda: tuned(config, model_below(config, "cpu").best(), len(data.classes))[0])

    return Run(
        config.train,
        configs.plain(config),
        learner,
        batches,
        rates(config.train, batches.steps_per_epoch),
        Samples(len(data)),
        flops_per_image(module, config, ids, world.size),
        partial(HeadScores, config.kind, module, whole, partial(in_use, config, model), tasks, world),
        said=[said],
        unit="images",
    )


def network(config: CatSegConfig, model: Model) -> CatSeg:
    """Combine the towers of a model with a new head.

    Raises:
        BadInput: the tower has no such layers or readout, or cannot see images of that size.
    """
    size_in_patches(config.size or config.crop, model.patch_size, "size" if config.size else "crop")
    embed_dim, prompts = model.encode_text("").shape[-1], len(templates(config.templates))
    built = CatSeg(config, model.visual, model.model.text, model.preprocess, embed_dim, prompts)
    return built.to(model.device)


def tuned(config: CatSegConfig, model: Model, num_classes: int) -> tuple[CatSeg, str]:
    """Build the network for training on `num_classes` classes; also say what its towers learn and the windows' size.

    Raises:
        BadInput: see `network`.
    """
    module = network(config, model)
    said = tuning.tune({"image": module.visual, "text": module.text}, config.train.optim)
    module.head.requires_grad_(True)
    tuning.leave_unread(module, module.unread(num_classes))
    side = module.size // model.patch_size
    window = window_of(side, side, config.aggregator.window)  # 1 if side is prime: then places hardly see others
    return module, f"{said}; windows are {window} x {window} of {side} x {side} patches"


def in_use(config: CatSegConfig, model: Model, module: CatSeg) -> CatSegModel:
    """Make the model for inference, with the towers and class maps of a trained network."""
    known = with_towers(model, module.visual, module.text) | {"weights": config.kind}
    return CatSegModel(**known, catseg=module, crop=config.crop, templates=config.templates)


def load(run: Path, *, device: torch.device | str, name: str) -> Loaded:
    """Load the model of a finished run: the model below that config.yaml names, with its tuned weights, and the head.

    Raises:
        BadInput: a damaged checkpoint; the model below is not there, or is another one.
    """
    found = finished(run, CatSegConfig, device)
    model = replace(found.below.best(), name=name)
    module, _ = tuned(found.config, model, found.saved.state["loader"]["classes"])
    tuning.take_over(module, found.saved)
    tuning.settle(module)
    return found.loaded(in_use(found.config, model, module.eval()))


def flops_per_image(module: CatSeg, config: CatSegConfig, ids: Tensor, ranks: int = 1) -> float:
    """Training FLOPs of a step per image: its forward and backward pass, and its share of those of the texts. Every
    rank embeds all texts, again in each micro-batch."""
    counted, side, totals = copy.deepcopy(module).to("meta"), config.crop, []
    with torch.device("meta"):
        images = torch.empty(1, 3, side, side, dtype=torch.uint8), torch.empty(1, side, side, dtype=torch.int32)
        texts = ids.to("meta")
        for call in (lambda: counted.embedded(texts).sum(), lambda: counted(*images, 1.0, texts).loss):
            with FlopCounter() as counter:
                out = call()
                if out.requires_grad:
                    out.backward()
            totals.append(counter.total)
    at_once = config.train.micro_batch or config.train.batch_size / ranks
    return float(totals[1] - totals[0] + totals[0] / at_once)
