"""Load existing models: of a run, an import, or another library's checkpoint. Knows no trainer."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

from silc import checkpoint
from silc import config as configs
from silc.config import Config
from silc.data.tokenizer import BPETokenizer
from silc.distributed import place
from silc.errors import BadInput
from silc.interop import groupvit, sources
from silc.kinds import KINDS, those_that
from silc.models.config import multiples_near
from silc.models.silc import Encoder
from silc.objective import networks
from silc.predict import Contrastive, Model, precision_of
from silc.rundir import TOKENIZER, newest_checkpoint
from silc.training.directory import CONFIG, is_run

if TYPE_CHECKING:
    import torch

    from silc.encoder import Tokenizer
    from silc.interop.big_vision import TextPool
    from silc.models.silc import TwoTower
    from silc.models.teacher import Teacher
    from silc.preprocess import Preprocess

Weights = Literal["student", "teacher", "both"]


@dataclass(frozen=True)
class Loaded:
    """The models that a run has made so far, or a model that came from elsewhere."""

    models: Mapping[str, Encoder]
    """Models by the name of their weights: `student`, `teacher`; `pretrained` if silc did not train them. A head is a
    `Model` that also follows a protocol of `encoder.py`, or has methods of its own."""
    examples_seen: int | None
    train_flops: float | None
    checksum: str
    """Checksum of all that makes the models: weights, configuration and tokenizer."""
    contrastive: Contrastive
    """The loss they were trained with."""

    def best(self, dtype: str | torch.dtype = "float32") -> Model:
        """The teacher if there is one, else the first model, ready to use."""
        return self.ready("teacher" if "teacher" in self.models else next(iter(self.models)), dtype)

    def ready(self, which: str, dtype: str | torch.dtype = "float32") -> Model:
        """The model with these weights, ready to use."""
        found = self.models[which]
        if isinstance(found, Model):
            return found.to(dtype=dtype)
        if isinstance(found, groupvit.GroupViT):
            raise BadInput(
                f"{found.name} is a GroupViT, which only `silc eval` takes: it has groups, and no text-aligned patches"
            )
        return Model(**vars(found), contrastive=self.contrastive, weights=which, dtype=precision_of(dtype))


def load(
    source: str | Path,
    *,
    weights: Literal["auto", "student", "teacher"] = "auto",
    tokenizer: str | Path | None = None,
    size: int | None = None,
    text_pool: TextPool | None = None,
    device: str | torch.device = "auto",
    dtype: str | torch.dtype = "float32",
) -> Model:
    """Load a model to use.

    Args:
        source: a run's directory, what `silc import` wrote, `open_clip:NAME/PRETRAINED`, `hf:ORG/NAME`, a directory of
            either library, or big_vision's .npz.
        weights: which weights of a run; `auto` is the teacher if there is one.
        tokenizer: file or directory, instead of the model's own; needed with a .npz.
        size: side of the images in pixels, if it is to differ from the model's.
        text_pool: pooling of the text tower in a .npz; see `silc.interop.big_vision`; None is "last".
        device: auto, cpu, cuda or cuda:N; `auto` takes the GPU when there is one.
        dtype: precision in which it computes, float32 or bfloat16 (`Model.dtype`).

    Raises:
        BadInput: no such model, one that cannot be read exactly, no such device or precision.
    """
    if not isinstance(source, str | Path):
        raise BadInput(f"a model is a path or a name, not {type(source).__name__}")
    if size is not None and (not isinstance(size, int) or size < 0):
        raise BadInput(f"size is {size!r}; it must be the side of the images, a whole number of pixels")
    where, precision = place(device), precision_of(dtype)
    if weights != "auto" and not is_run(source):
        sources.kind_of(source)  # raises if it is no model at all
        raise BadInput(f"{source} is no run with a student and a teacher; leave weights={weights!r} out")
    asked: Weights = "both" if weights == "auto" else weights
    path = Path(tokenizer) if tokenizer else None
    loaded = load_any(source, weights=asked, tokenizer=path, size=size, text_pool=text_pool, device=where)
    return loaded.best(precision)


def load_any(
    source: str | Path,
    *,
    weights: Weights = "both",
    tokenizer: Path | None = None,
    size: int | None = None,
    text_pool: TextPool | None = None,
    device: torch.device | str = "cpu",
    name: str = "",
) -> Loaded:
    """Load the models of a run, or the model of another source; `name` is the source's own unless given.

    Raises:
        BadInput: as `load`; a tokenizer is given for a run, which has its own.
    """
    if is_run(source):
        if tokenizer or text_pool is not None:
            raise BadInput(
                f"{source} is a run, whose tokenizer and text_pool are those it was trained with; leave them out"
            )
        kind = configs.load_of(Path(source) / CONFIG, those_that("load")).kind
        if kind == Config.kind:
            return load_run(source, weights=weights, size=size, device=device, name=name)
        if weights != "both" or size is not None:
            raise BadInput(f"{source} is of a run of kind {kind!r}, loaded as it was trained; leave out weights, size")
        loaded: Loaded = KINDS[kind].find("load")(Path(source), device=device, name=name or Path(source).name)
        return loaded
    if sources.kind_of(source) == "hf" and groupvit.is_one(spec := str(source).removeprefix("hf:")):
        if size is not None:
            raise BadInput(f"{source} is a GroupViT, scored at its own size; leave size out")
        wrapped, checksum = groupvit.read(spec, tokenizer, name=name or str(source), device=device)
        return Loaded({"pretrained": cast("Encoder", wrapped)}, None, None, checksum, "softmax")
    pretrained = sources.read(source, tokenizer=tokenizer, size=size, text_pool=text_pool)
    towers = pretrained.build().to(device)
    encoder = Encoder(towers, towers.visual, pretrained.tokenizer, pretrained.preprocess, name or str(source))
    return Loaded({"pretrained": encoder}, None, None, pretrained.checksum, pretrained.contrastive)


def load_run(
    run: Path | str,
    *,
    weights: Weights = "both",
    size: int | None = None,
    device: torch.device | str = "cpu",
    name: str = "",
) -> Loaded:
    """Load the models of a run's newest checkpoint, and their cost; `name` is the directory's unless given.

    Args:
        size: side of the images in pixels, if it is to differ from the run's; the tower resamples its position
            embedding by its own rule.

    Raises:
        BadInput: no run there, a damaged checkpoint, no teacher where one is asked for, or a size that is no multiple
            of the patch.
    """
    run = Path(run)
    newest = newest_checkpoint(run)
    config = configs.load(run / CONFIG)
    patch = config.model.image.patch
    if size is not None and (size < patch or size % patch):
        raise BadInput(f"size {size} is no multiple of the patch of {patch} pixels; use {multiples_near(size, patch)}")
    tokenizer = BPETokenizer.load(run / TOKENIZER, config.model.text.length)
    saved = checkpoint.read(newest, only=("model", "teacher"))
    student, _, teacher = networks(
        config.model, config.objective, vocab_size=tokenizer.vocab_size, eos_id=tokenizer.eos_id
    )
    saved.load_into(student, "model")
    if teacher is not None:
        saved.load_into(teacher, "teacher")
        teacher.to(device).eval()
    models = encoders(
        student.to(device).eval(),
        teacher,
        tokenizer,
        config.pixels.preprocess(size or config.model.image.size),
        name=name or run.name,
        weights=weights,
    )
    cost = saved.state["cost"]
    checksum = checksum_of(run, newest)
    return Loaded(models, cost["examples_seen"], cost["train_flops"], checksum, config.objective.contrastive)


def checksum_of(run: Path, saved: Path) -> str:
    """Checksum of a run's checkpoint, configuration and tokenizer."""
    digest = hashlib.sha256()
    for file in (saved / checkpoint.MANIFEST, run / CONFIG, *sorted((run / TOKENIZER).glob("*"))):
        digest.update(file.read_bytes())
    return digest.hexdigest()


def encoders(
    student: TwoTower,
    teacher: Teacher | None,
    tokenizer: Tokenizer,
    preprocess: Preprocess,
    *,
    name: str = "",
    weights: Weights = "both",
) -> dict[str, Encoder]:
    """Student and/or teacher as `DualEncoder`s; `both` gives those that exist.

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
