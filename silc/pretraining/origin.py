"""The model that a run starts from: the shape of its towers, its tokenizer and its weights.

There are two steps: `find` gives shape and tokenizer without reading weights, so that a configuration can be made;
`initialize` fills an objective when the run begins.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from silc import checkpoint
from silc import config as configs
from silc.data.tokenizer import BPETokenizer
from silc.errors import BadInput
from silc.interop import sources
from silc.models.image import POSITIONS, positions_at
from silc.rundir import CONTINUE, TOKENIZER, newest_checkpoint
from silc.training.directory import CONFIG, is_run

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import Tensor

    from silc.config import InitWeights
    from silc.models.config import ModelConfig
    from silc.objective import SilcObjective
    from silc.preprocess import Preprocess


@dataclass(frozen=True)
class Origin:
    """A model to go on from."""

    path: Path
    model: ModelConfig
    """Shape of the towers, and of the head where it has one."""
    contrastive: Literal["softmax", "sigmoid"]
    """The image-text loss it was trained with; the other loss cannot use its scale and bias."""
    tokenizer: BPETokenizer
    """The tokenizer that its text tower was trained with."""
    preprocess: Preprocess
    """The preprocessing that its image tower expects."""
    has_head: bool
    """Whether it brings a trained distillation head and centre."""
    read: Callable[[], Mapping[str, Mapping[str, Tensor]]]
    """Reads its weights: those of `checkpoint.WEIGHTS` that it has."""


def find(source: str) -> Origin:
    """The model called `source`: a run of `silc train` or `silc finetune`, an export of one, or what `silc.load` takes.

    Raises:
        BadInput: there is none, it has no checkpoint yet, or no tokenizer.
    """
    kept = Path(source) / CONTINUE
    run = kept if is_run(kept) else Path(source)
    return _of_run(run) if is_run(run) else _imported(source)


def _imported(source: str) -> Origin:
    if source.endswith(".npz"):
        raise BadInput(
            f"{source} holds no tokenizer; run `silc import {source} OUT --tokenizer FILE`, then start from OUT"
        )
    theirs = sources.read(source)
    return Origin(
        Path(source),
        theirs.model,
        theirs.contrastive,
        theirs.tokenizer,
        theirs.preprocess,
        has_head=False,
        read=lambda: {"model": theirs.weights},
    )


def _of_run(run: Path) -> Origin:
    newest, config = newest_checkpoint(run), configs.load(run / CONFIG)
    return Origin(
        newest,
        config.model,
        config.objective.contrastive,
        BPETokenizer.load(run / TOKENIZER, config.model.text.length),
        config.pixels.preprocess(config.model.image.size),
        has_head=config.objective.distill,
        read=lambda: checkpoint.read(newest, only=checkpoint.WEIGHTS).state_dicts,
    )


def initialize(objective: SilcObjective, origin: Origin, size: int, what: InitWeights) -> str:
    """Fill an objective with the weights of `origin`. What it lacks starts fresh; a teacher then equals the student.

    Args:
        size: side of the images in this run; if it is not the origin's, its position embedding is resampled.
        what: `all` of the origin, or only the towers of its `student` or `teacher`.

    Returns:
        A line for the user that says what was done.

    Raises:
        BadInput: the weights are of another architecture, or were trained with another preprocessing.
    """
    expected = replace(origin.preprocess, size=size)
    if objective.preprocess != expected:
        raise BadInput(
            f"{origin.path} expects pixels as {expected}, this run gives {objective.preprocess}; "
            "give pixels the model's values, or use `silc finetune`, which does so"
        )
    parts = origin.read()
    model, teacher = dict(parts["model"]), dict(parts.get("teacher", {}))
    said = f"starting from {origin.path}: {'student' if what == 'all' else what}"
    if what == "teacher":
        model |= {name: value for name, value in teacher.items() if name.startswith("visual.")}
    if size != origin.model.image.size:
        for tensors in (model, teacher):
            if POSITIONS in tensors:
                tensors[POSITIONS] = positions_at(tensors[POSITIONS], origin.model.image, size)
        said += f"; position embedding resampled from {origin.model.image.size} to {size} px"
    if objective.config.contrastive != origin.contrastive:
        fresh = objective.student.state_dict()
        model |= {name: fresh[name] for name in ("logit_scale", "logit_bias")}
        said += f"; scale and bias fresh, as the loss was {origin.contrastive}"
    checkpoint.load_into(objective.student, model, origin.path / "model.safetensors")
    for name, module in objective.heads.items():
        if what == "all" and name in parts and name != "teacher":
            checkpoint.load_into(module, parts[name], origin.path / f"{name}.safetensors")
            said += f", {name.replace('_', ' ')}"
    if objective.teacher is None:
        return said
    objective.teacher.update(objective.student.visual, objective.head, momentum=0.0)
    if what != "all" or not teacher:
        return f"{said}; teacher := student"
    own = objective.teacher.state_dict()
    if (objective.head is None) != ("head" not in parts):
        # Rows of the ablation differ in the head alone: take over the averaged tower, keep the head as it is.
        teacher = {name: value for name, value in teacher.items() if name.startswith("visual.")}
    taken = {name: value for name, value in teacher.items() if name in own}
    checkpoint.load_into(objective.teacher, own | taken, origin.path / "teacher.safetensors")
    return f"{said}, teacher"
