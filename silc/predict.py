"""Models to use: of a run, an import, or somebody else's checkpoint. No trainer here.

model = silc.load("open_clip:ViT-B-16-SigLIP-256/webli")
model.features("street.jpg").aligned                 # [1, h, w, D]: patches in the space of the texts
model.segment("street.jpg", ["road", "car", "sky"]).overlay().save("segmented.png")
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from silc import checkpoint
from silc import config as configs
from silc.data.tokenizer import BPETokenizer
from silc.distributed import place
from silc.eval.config import EvalConfig
from silc.eval.datasets import read_image
from silc.eval.pictures import colour_overlay
from silc.eval.segment import score_maps, scorer_of, window_rules
from silc.images import to_rgb, upright
from silc.interop import sources
from silc.models.head import DistillHead
from silc.models.silc import Encoder, TwoTower
from silc.models.teacher import Teacher
from silc.preprocess import Preprocess
from silc.rundir import CONFIG, TOKENIZER, is_run, newest_checkpoint
from silc.types import BadInput

if TYPE_CHECKING:
    from silc.eval.score_map import ScoreMap
    from silc.interop.big_vision import TextPool
    from silc.types import Tokenizer

Contrastive = Literal["softmax", "sigmoid"]
Picture = Image.Image | str | Path
"""An image, or the file it is in."""
Weights = Literal["student", "teacher", "both"]


@dataclass(frozen=True)
class Loaded:
    """What a run has made so far, or a model that came from elsewhere."""

    models: dict[str, Encoder]
    """By the name of their weights: `student`, `teacher`; `pretrained` where it was not trained here."""
    examples_seen: int | None
    train_flops: float | None
    checksum: str
    """Of all that makes the models: weights, configuration and tokenizer."""
    contrastive: Contrastive
    """The loss they were trained with."""


@dataclass(frozen=True)
class Features:
    """What a model sees in one image. D is the width of the joint space, C that of the tower."""

    pooled: Tensor  # [1, D] of unit length
    patches: Tensor  # [1, h, w, C] as the tower leaves them
    aligned: Tensor  # [1, h, w, D] of unit length: their products with text features are cosines


@dataclass(frozen=True)
class Segmentation:
    """Each pixel's class, by name."""

    image: Image.Image
    names: Sequence[str]
    labels: Tensor  # int64 [H, W]: index into names; H and W are the turned image's
    map: ScoreMap

    @property
    def scores(self) -> Tensor:
        """[C, h, w] cosines (or what the protocol makes of them) at the size that was scored; made when asked for."""
        return self.map.whole().cpu()

    def overlay(self) -> Image.Image:
        """The image under the colours of its classes."""
        return colour_overlay(self.image, self.labels.numpy())


@dataclass
class Model(Encoder):
    """A `DualEncoder` that also takes files, images and words."""

    contrastive: Contrastive = "softmax"
    weights: str = "pretrained"
    """Which weights of a run it has: student or teacher; `pretrained` where it was not trained here."""

    @torch.no_grad()
    def encode_image(self, images: Tensor | Picture | Sequence[Picture]) -> Tensor:
        """Unit-length features [B, D] of files or images, or of normalised pixels [B, 3, H, W].

        Raises:
            BadInput: a file that is no image.
        """
        return super().encode_image(images if isinstance(images, Tensor) else self.pixels(images))

    @torch.no_grad()
    def encode_text(self, texts: Tensor | str | Sequence[str], *, normalize: bool = True) -> Tensor:
        """Features [B, D] of texts, or of ids [B, T]; of unit length unless `normalize` is off."""
        if not isinstance(texts, Tensor):
            texts = self.tokenizer([texts] if isinstance(texts, str) else texts).to(self.device)
        return super().encode_text(texts, normalize=normalize)

    def pixels(self, images: Picture | Sequence[Picture]) -> Tensor:
        """Normalised pixels [B, 3, H, W], on the model's device, of files or images.

        Raises:
            BadInput: a file that is no image, or what is neither (arrays, bytes).
        """
        is_list = isinstance(images, Iterable) and not isinstance(images, str | bytes | bytearray)
        several: Iterable[Any] = images if is_list and not hasattr(images, "dtype") else [images]  # type: ignore[assignment]
        batch = torch.stack([self.preprocess(open_image(image)) for image in several])
        return self.preprocess.normalize(batch.to(self.device))

    @torch.no_grad()
    def features(self, image: Picture) -> Features:
        """Pooled and dense features of an image, by the model's own preprocessing and first dense readout.

        Raises:
            BadInput: a file that is no image.
        """
        pixels = self.pixels(image)
        aligned = F.normalize(self.encode_dense(pixels, self.readouts[0]), dim=-1)
        return Features(super().encode_image(pixels), self.visual.patches(pixels).float(), aligned)

    @torch.no_grad()
    def segment(self, image: Picture, names: Sequence[str], config: EvalConfig | None = None) -> Segmentation:
        """The class of each pixel among `names`, by the sliding windows that `config` (TCL's) describes.

        Raises:
            BadInput: no names, or a file that is no image.
        """
        return self.segmenter(names, config)(image)

    def segmenter(self, names: Sequence[str], config: EvalConfig | None = None) -> Segmenter:
        """`segment` for many images: the names are embedded once."""
        if not names or isinstance(names, str):
            raise BadInput(f"names must be a list of classes, e.g. ['road', 'car', 'sky']; got {names!r}")
        return Segmenter(self, list(names), config or EvalConfig())

    def probs(self, images: Tensor, texts: Tensor) -> Tensor:
        """Probabilities [B, N] of unit-length image features [B, D] and text features [N, D].

        With the softmax loss (CLIP) a row sums to one; with the sigmoid loss (SigLIP) each pair stands for itself.
        """
        logits = images @ texts.T * self.model.logit_scale.exp() + self.model.logit_bias
        return (logits.sigmoid() if self.contrastive == "sigmoid" else logits.softmax(dim=-1)).detach()


class Segmenter:
    """Segments images into the same classes; made by `Model.segmenter`."""

    def __init__(self, model: Model, names: Sequence[str], config: EvalConfig) -> None:
        self.names, self.config = names, config
        self.scorer, self.rules = scorer_of(model, names, config), window_rules(model, config)

    @torch.no_grad()
    def __call__(self, image: Picture) -> Segmentation:
        """The class of each pixel."""
        opened = open_image(image)
        (scores,) = score_maps([opened], self.scorer, self.rules, self.config.batch_size)
        return Segmentation(opened, self.names, scores.labels(opened.height, opened.width), scores)


def load(
    source: str | Path,
    *,
    weights: Literal["auto", "student", "teacher"] = "auto",
    tokenizer: str | Path | None = None,
    size: int | None = None,
    text_pool: TextPool | None = None,
    device: str | torch.device = "auto",
) -> Model:
    """A model to use.

    Args:
        source: a run's directory, what `silc import` wrote, `open_clip:NAME/PRETRAINED`, `hf:ORG/NAME`, a directory of
            either library, or big_vision's .npz.
        weights: of a run; `auto` is the teacher where there is one.
        tokenizer: file or directory, instead of the model's own; needed with a .npz.
        size: side of the images, in pixels, where it should be another than the model's.
        text_pool: of a .npz; see `silc.interop.big_vision`; None is "last".
        device: auto, cpu, cuda or cuda:N; `auto` takes the GPU when there is one.

    Raises:
        BadInput: no such model, one that cannot be read exactly, or no such device.
    """
    where = place(device)
    if weights != "auto" and not is_run(source):
        sources.kind_of(source)  # what is no model at all is told so
        raise BadInput(f"{source} is no run with a student and a teacher; leave weights={weights!r} out")
    asked: Weights = "both" if weights == "auto" else weights
    path = Path(tokenizer) if tokenizer else None
    loaded = load_any(source, weights=asked, tokenizer=path, size=size, text_pool=text_pool, device=where)
    which = "teacher" if "teacher" in loaded.models else next(iter(loaded.models))
    return Model(**vars(loaded.models[which]), contrastive=loaded.contrastive, weights=which)


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
    """The models of a run, or the one of another source; `name` is the source's own unless given.

    Raises:
        BadInput: as `load`; a tokenizer or a size is given for a run, which has its own.
    """
    if is_run(source):
        if tokenizer or size is not None or text_pool is not None:
            raise BadInput(
                f"{source} is a run, whose tokenizer, size and text_pool are those it was trained with; leave them out"
            )
        return load_run(source, weights=weights, device=device, name=name)
    pretrained = sources.read(source, tokenizer=tokenizer, size=size, text_pool=text_pool)
    towers = pretrained.build().to(device)
    encoder = Encoder(towers, towers.visual, pretrained.tokenizer, pretrained.preprocess, name or str(source))
    return Loaded({"pretrained": encoder}, None, None, pretrained.checksum, pretrained.contrastive)


def open_image(image: Picture) -> Image.Image:
    """An RGB image, of a file where it is one, turned as EXIF says that the camera was held.

    Raises:
        BadInput: no such file, no image in it, an image that is cut or has colours that do not become RGB, or neither
            a file's name nor an image.
    """
    if isinstance(image, str | Path):
        return upright(read_image(Path(image)))
    if not isinstance(image, Image.Image):
        raise BadInput(
            f"an image is a file's name or a PIL.Image, not {type(image).__name__}; PIL.Image.fromarray makes one of "
            "an array uint8 [H, W, 3], PIL.Image.open(io.BytesIO(data)) of bytes"
        )
    try:
        return upright(to_rgb(image))
    except (OSError, ValueError, SyntaxError) as error:
        raise BadInput(f"an image of {image.width} x {image.height} pixels, mode {image.mode}: {error}") from error


def load_run(
    run: Path | str, *, weights: Weights = "both", device: torch.device | str = "cpu", name: str = ""
) -> Loaded:
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
    checksum = _checksum(run, newest)
    return Loaded(models, cost["examples_seen"], cost["train_flops"], checksum, config.objective.contrastive)


def _checksum(run: Path, saved: Path) -> str:
    digest = hashlib.sha256()
    for file in (saved / checkpoint.MANIFEST, run / "config.yaml", *sorted((run / "tokenizer").iterdir())):
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
