"""A run of detection: builds data, learner, schedule and scores from the configuration; the engine does the rest."""

from __future__ import annotations

import copy
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import torch

from silc import checks
from silc import config as configs
from silc.data.loader import Loader
from silc.data.quarantine import Samples
from silc.errors import BadInput
from silc.eval.prompts import templates
from silc.extras import needs
from silc.heads import tuning
from silc.heads.detect.config import DetectConfig
from silc.heads.detect.data import BoxedImages, Pictures, training_set
from silc.heads.detect.head import DetectionHead
from silc.heads.detect.model import DetectLearner, Detector
from silc.heads.detect.predictor import DetectModel
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
from silc.models import lora
from silc.training.fit import fit
from silc.training.flops import FlopCounter
from silc.training.protocols import Run, RunContext
from silc.training.sharding import unsharded

if TYPE_CHECKING:
    from pathlib import Path

    from silc.loading import Loaded
    from silc.predict import Model


def train(config: DetectConfig) -> Path:
    """Train a detection head to the end and return the run's directory.

    Raises:
        BadInput: the configuration, the data, or what `out` or `init` hold cannot be used.
        Preempted: this rank or another was asked to stop; the progress is saved.
    """
    if not config.data.train or not config.init:
        raise BadInput("detect needs a model and images with boxes: --init MODEL --data.train FILE.json")
    needs("matching boxes", "scipy.optimize", "detect")
    templates(config.data.templates)
    return fit(config.train, checks.training(config), partial(compose, config))


def compose(config: DetectConfig, context: RunContext) -> Run:
    """Build all that the engine needs; every rank calls this.

    Raises:
        BadInput: the model or the data cannot be used; the training is shorter than a step.
    """
    world, config = evaluation_world(context), settled(config, context)
    tasks = along(config, world)
    data, told = training_set(config.data)
    below = model_below(config, world.device)
    model = below.best()
    torch.manual_seed(config.train.seed)  # the same weights on every rank
    module = network(config, model)
    source = BoxedImages(data)
    pictures = Pictures(source, config.data, module.preprocess.size, model.tokenizer, model.preprocess.interpolation)
    plan = loader_plan(config.train, config.data.workers)
    batches = OnModel(Loader(source, pictures, plan, context.world), {"model": below.checksum})

    def whole() -> Detector:
        return unsharded(module, lambda: network(config, model_below(config, "cpu").best()))

    return Run(
        config.train,
        configs.plain(config),
        DetectLearner(module, config.text_lr, config.train.micro_batch),
        batches,
        rates(config.train, batches.steps_per_epoch),
        Samples(len(data)),
        flops_per_image(module, model.tokenizer.context_length, config.data.negatives),
        partial(HeadScores, config.kind, module, whole, partial(in_use, model), tasks, world),
        said=[told] if told else [],
        unit="images",
    )


def network(config: DetectConfig, model: Model) -> Detector:
    """Combine the towers of a model, set to the run's image size, with new heads; freeze what is not trained.

    Raises:
        BadInput: the size is no multiple of the patch.
    """
    size = size_in_patches(config.size or model.preprocess.size, model.patch_size)
    visual, text = model.visual, model.model.text
    tuning.see_at(visual, size)
    embed_dim = model.encode_text("").shape[-1]
    width = visual.trunk.pos_embed.shape[-1]
    head = DetectionHead(width, embed_dim, objectness=config.objectness)
    built = Detector(visual, text, head, replace(model.preprocess, size=size), config.loss).to(model.device)
    for name, tower in (("image", visual), ("text", text)):
        tower.requires_grad_(name not in config.train.optim.freeze)  # a teacher's tower comes frozen
        if config.train.optim.lora and name not in config.train.optim.freeze:
            lora.adapt(tower, config.train.optim.lora)
    visual.head.requires_grad_(False)  # no loss reads the projection
    return built.eval()


def in_use(model: Model, module: Detector) -> DetectModel:
    """Make the model for inference, with the towers and heads of a trained detector."""
    known = with_towers(model, module.visual, module.text)
    known |= {"weights": DetectConfig.kind, "preprocess": module.preprocess}
    return DetectModel(**known, detector=module)


def load(run: Path, *, device: torch.device | str, name: str) -> Loaded:
    """Load the model of a finished run: the model below that config.yaml names, what it learnt, and the heads.

    Raises:
        BadInput: a damaged checkpoint; the model below is not there, or is another one.
    """
    found = finished(run, DetectConfig, device)
    model = replace(found.below.best(), name=name)
    module = network(found.config, model)
    tuning.take_over(module, found.saved)
    tuning.settle(module)
    return found.loaded(in_use(model, module.eval()))


def flops_per_image(module: Detector, context_length: int, num_names: int) -> float:
    """Training FLOPs of a step per image, each with `num_names` names."""
    counted, size, names = copy.deepcopy(module).to("meta"), module.preprocess.size, max(1, num_names)
    with torch.device("meta"), FlopCounter() as counter:
        features = counted.text(torch.zeros(names, context_length, dtype=torch.int64))
        found = counted.look(torch.zeros(1, 3, size, size), features)
        (found.logits.sum() + found.boxes.sum()).backward()
    return float(counter.total)
