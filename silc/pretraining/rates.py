"""Rates of pretraining: by step (learning rate, EMA momentum, teacher temperature), and by parameter (weight decay,
layers at different rates, frozen towers).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from torch import nn

from silc.errors import BadInput
from silc.models import lora
from silc.models.teacher import half_life_of, momentum_of
from silc.step import Hyper
from silc.training.config import examples_of, steps_of
from silc.training.protocols import ParamGroup
from silc.training.schedules import LearningRate

if TYPE_CHECKING:
    from collections.abc import Iterable

    from silc.config import Config
    from silc.training.config import OptimConfig

TOWERS = {"image": "student.visual.", "text": "student.text."}
BLOCK = re.compile(r"student\.(visual|text)\..*blocks\.(\d+)\.")
EMBEDDING = re.compile(
    r"student\.(visual|text)\.(trunk\.)?(patch_embed|pos_embed|cls_token|norm_pre|token_embedding|positional_embedding)\b"
)


@dataclass(frozen=True)
class Schedule(LearningRate):
    """The settings that change with the step."""

    momentum: float
    temperature: float

    def at(self, step: int) -> Hyper:
        """Settings of one step, 0 <= step < total."""
        return Hyper(lr=self.lr(step), momentum=self.momentum, temperature=self.temperature)


def schedule_of(config: Config, steps_per_epoch: int) -> Schedule:
    """The schedule of a run.

    Raises:
        BadInput: the run is shorter than a step, or than its warm-up and cool-down.
    """
    batch_size, teacher = config.train.batch_size, config.model.teacher
    total = steps_of(config.train.duration, batch_size=batch_size, steps_per_epoch=steps_per_epoch)
    if total < 1:
        raise BadInput(f"train.duration {config.train.duration!r} is less than one step of {batch_size} pairs")
    if teacher.half_life == "auto":
        half_life = half_life_of(total * batch_size)
    else:
        half_life = examples_of(teacher.half_life, batch_size=batch_size, steps_per_epoch=steps_per_epoch, total=total)
    return Schedule.of(
        config.train.optim,
        total=total,
        batch_size=batch_size,
        steps_per_epoch=steps_per_epoch,
        momentum=momentum_of(half_life, batch_size),
        temperature=teacher.temperature,
    )


def groups(module: nn.Module, config: OptimConfig) -> dict[str, ParamGroup]:
    """The group of every trainable parameter of an objective, by name."""
    names = [name for name, p in module.named_parameters() if p.requires_grad]
    lr_scales, decaying = layer_lr_scales(names, config.layer_decay), decays(module, config.decay)
    return {name: ParamGroup(lr_scales[name], name in decaying) for name in names}


def freeze(module: nn.Module, towers: Iterable[str]) -> None:
    """Freeze towers of an objective ("image", "text"): no gradient, no moments, no weight decay."""
    for name, parameter in module.named_parameters():
        if name.startswith(tuple(TOWERS[tower] for tower in towers)):
            parameter.requires_grad_(False)


def layer_lr_scales(names: Iterable[str], decay: float) -> dict[str, float]:
    """Share of the learning rate of each parameter of an objective: decay^(depth + 1 - layer)  (BEiT, MAE).

    Embeddings are layer 0 of their tower, blocks are layers 1 to depth. All above (the head, the scale) has the number
    depth + 1 and learns at the full rate.
    """
    names = list(names)
    blocks = {name: (block[1], int(block[2])) for name in names if (block := BLOCK.match(name))}
    depth = {tower: 1 + max(number for own, number in blocks.values() if own == tower) for tower, _ in blocks.values()}

    def lr_scale(name: str) -> float:
        if name in blocks:
            tower, number = blocks[name]
            return decay ** (depth[tower] - number)
        if embedding := EMBEDDING.match(name):
            return decay ** (depth[embedding[1]] + 1)
        return 1.0

    return {name: lr_scale(name) for name in names}


def decays(module: nn.Module, which: Literal["matrices", "kernels"]) -> set[str]:
    """Names of the parameters that have weight decay; never norms, biases and the scale, which are vectors.

    `kernels` are what big_vision's `wd_mults = ((".*/kernel$", 1.0),)` finds: weights of linear layers and
    convolutions.
    """
    matrices = {name for name, p in module.named_parameters() if p.ndim > 1}
    if which == "matrices":
        return matrices
    embeddings = {f"{path}.weight" for path, part in module.named_modules() if isinstance(part, nn.Embedding)}
    # Positions, tokens of the towers and prototypes are no layer's `weight`; LoRA's matrices change kernels.
    return {name for name in matrices - embeddings if name.endswith("weight") or lora.ADDED in name}
