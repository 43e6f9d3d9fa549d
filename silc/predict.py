"""A trained run as models to use: student and teacher with their tokenizer and preprocessing. No trainer here."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch

from silc import checkpoint
from silc import config as configs
from silc.data.tokenizer import BPETokenizer
from silc.models.head import DistillHead
from silc.models.silc import Encoder, TwoTower
from silc.models.teacher import Teacher
from silc.preprocess import Preprocess
from silc.types import BadInput

if TYPE_CHECKING:
    from silc.types import Tokenizer

Weights = Literal["student", "teacher", "both"]
CONFIG, TOKENIZER, CHECKPOINTS = "config.yaml", "tokenizer", "checkpoints"
"""What a run's directory holds."""


@dataclass(frozen=True)
class LoadedRun:
    """What a run has made so far."""

    models: dict[str, Encoder]
    """By the name of their weights: `student`, `teacher`."""
    examples_seen: int
    train_flops: float
    checksum: str
    """Of all that makes the models: the checkpoint's manifest, configuration and tokenizer."""


def load_run(
    run: Path | str, *, weights: Weights = "both", device: torch.device | str = "cpu", name: str = ""
) -> LoadedRun:
    """The models of a run's newest checkpoint, and what they cost; `name` is the directory's unless given.

    Raises:
        BadInput: no run there, a damaged checkpoint, or a teacher asked of a run that has none.
    """
    run = Path(run)
    newest = newest_checkpoint(run)
    config = configs.load(run / CONFIG)
    tokenizer = BPETokenizer.load(run / TOKENIZER, config.model.text.length)
    saved = checkpoint.read(newest, only=("model", "teacher"))
    student = TwoTower(
        config.model,
        vocab_size=tokenizer.vocab_size,
        eos_id=tokenizer.eos_id,
        scale_init=config.objective.initial_scale,
        bias_init=config.objective.bias_init,
    )
    checkpoint.load_into(student, saved.parts["model"], saved.path / "model.safetensors")
    teacher = None
    if config.objective.teacher:
        head = DistillHead(config.model.head, config.model.embed_dim) if config.objective.distill else None
        teacher = Teacher(None if config.objective.head_only_ema else student.visual, head)
        checkpoint.load_into(teacher, saved.parts["teacher"], saved.path / "teacher.safetensors")
        teacher.to(device).eval()
    models = encoders(
        student.to(device).eval(),
        teacher,
        tokenizer,
        Preprocess(config.model.image.size, **asdict(config.pixels)),
        name=name or run.name,
        weights=weights,
    )
    cost = saved.state["cost"]
    return LoadedRun(models, cost["examples_seen"], cost["train_flops"], _checksum(run, newest))


def _checksum(run: Path, saved: Path) -> str:
    digest = hashlib.sha256()
    for file in (saved / checkpoint.MANIFEST, run / "config.yaml", *sorted((run / "tokenizer").iterdir())):
        digest.update(file.read_bytes())
    return digest.hexdigest()


def newest_checkpoint(run: Path) -> Path:
    """The newest checkpoint of a run.

    Raises:
        BadInput: no run there, or no checkpoint yet.
    """
    if not (run / CONFIG).is_file():
        raise BadInput(f"{run} holds no run (no config.yaml); give the --out directory of `silc train`")
    found = checkpoint.find(run / CHECKPOINTS)
    if not found:
        raise BadInput(f"{run} holds no finished checkpoint yet; wait for one, or go on with --resume auto")
    return found[0]


def encoders(
    student: TwoTower,
    teacher: Teacher | None,
    tokenizer: Tokenizer,
    preprocess: Preprocess,
    *,
    name: str = "",
    weights: Weights = "both",
) -> dict[str, Encoder]:
    """Student and/or teacher as `DualEncoder`s; `both` gives what there is.

    Raises:
        BadInput: the teacher is asked for and there is none.
    """
    models = {}
    if weights in ("student", "both"):
        models["student"] = Encoder(student, student.visual, tokenizer, preprocess, name)
    if weights in ("teacher", "both") and teacher is not None and teacher.visual is not None:
        models["teacher"] = Encoder(student, teacher.visual, tokenizer, preprocess, name)
    if not models:
        raise BadInput(f"{name or 'this run'} has no teacher; use --weights student")
    return models
