"""Build the objective of a configuration, on the CPU or, without weights, on the meta device; count a step's FLOPs."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from silc.batch import Batch
from silc.data.crops import MultiCrop
from silc.distributed import World
from silc.objective import SilcObjective
from silc.pretraining.rates import freeze
from silc.step import Hyper
from silc.training.flops import FlopCounter

if TYPE_CHECKING:
    from silc.config import Config


def untrained(config: Config, vocab_size: int, eos_id: int, world: World) -> SilcObjective:
    """The objective on the meta device: every shape, and no memory."""
    with torch.device("meta"):
        return objective_of(config, vocab_size, eos_id, world)


def objective_of(config: Config, vocab_size: int, eos_id: int, world: World) -> SilcObjective:
    """The objective with weights as torch draws them; towers are frozen where the configuration says so."""
    objective = SilcObjective(
        config.model,
        config.objective,
        preprocess=config.pixels.preprocess(config.model.image.size),
        world=world,
        vocab_size=vocab_size,
        eos_id=eos_id,
    )
    freeze(objective, config.train.optim.freeze)
    return objective


def flops_per_example(config: Config, vocab_size: int, eos_id: int) -> float:
    """Training FLOPs per example of a recipe, by torch's formulas: forward and backward, forward of the teacher."""
    # torch's counter fails on a tower that runs with gradient and without; a separate teacher costs the same.
    config = replace(config, objective=replace(config.objective, head_only_ema=False))
    objective = untrained(config, vocab_size, eos_id, World())
    with torch.device("meta"), FlopCounter() as counter:
        objective(blank_batch(config, 1), Hyper(lr=0.0, momentum=1.0, temperature=1.0)).loss.backward()
    return float(counter.total)


def views_of(config: Config) -> MultiCrop:
    """Draws the views of an image that a recipe asks for."""
    size, original = config.model.image.size, config.objective.needs_original
    return MultiCrop(config.drawn, size=size, original=original, preprocess=config.pixels.preprocess(size))


def blank_batch(config: Config, num: int) -> Batch:
    """A rank's batch as its loader makes it, with blank views and texts."""
    text = torch.zeros(num, config.model.text.length, dtype=torch.int64)
    return Batch(views_of(config).blank(num), text, keys=[""] * num)
