"""Models for users: files, images and words in; features, probabilities, masks and pictures out.

model = silc.load("open_clip:ViT-B-16-SigLIP-256/webli")
model.features("street.jpg").aligned                 # [1, h, w, D]: patches in the space of the texts
model.segment("street.jpg", ["road", "car", "sky"]).overlay().save("segmented.png")
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from itertools import groupby
from typing import TYPE_CHECKING, Any, Literal, Self, TypeGuard

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from silc.dense import component_pictures, scaled_to_patches
from silc.distributed import place
from silc.errors import BadInput
from silc.eval.config import EvalConfig
from silc.eval.embed import text_classifier
from silc.eval.files import distinct
from silc.eval.pictures import ALPHA, colour_overlay, with_edges, with_legend
from silc.eval.prompts import templates as prompt_set
from silc.eval.sliding import scaled, score_maps, scorer_of
from silc.inputs import Picture, Pictures, at_least_one, each_of, in_batches, open_image
from silc.models.readouts import chosen
from silc.models.silc import Encoder

if TYPE_CHECKING:
    from PIL import Image

    from silc.encoder import DensePredictor
    from silc.eval.score_map import ScoreMap

Contrastive = Literal["softmax", "sigmoid"]
PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}
TOWER = "tower"
"""The name of the image tower's own patch features, used like the name of a readout."""


@dataclass(frozen=True)
class Features:
    """Features of B images. D is the width of the joint space, C that of the tower."""

    pooled: Tensor  # [B, D] of unit length
    patches: Tensor  # [B, h, w, C] as the tower leaves them
    aligned: Tensor  # [B, h, w, D] of unit length: their products with text features are cosines


@dataclass(frozen=True)
class Segmentation:
    """Each pixel's class, by name."""

    image: Image.Image
    names: Sequence[str]
    labels: Tensor  # int64 [H, W]: index into names; H and W are those of `image`
    map: ScoreMap

    @property
    def scores(self) -> Tensor:
        """Cosines [C, h, w] (or what the protocol makes of them) at the size that was scored; computed on access."""
        return self.map.whole().cpu()

    def overlay(self, *, alpha: float = ALPHA, legend: bool = False, edges: bool = False) -> Image.Image:
        """The image in grey, with the colours of its classes over it.

        Args:
            alpha: share of the colours, 0 to 1.
            legend: the classes that cover more than half a percent, by name, below the image.
            edges: white lines between the classes.

        Raises:
            BadInput: an alpha that is not from 0 to 1.
        """
        if not 0 <= alpha <= 1:
            raise BadInput(f"alpha is the share of the colours, from 0 to 1; got {alpha}")
        labels = self.labels.numpy()
        picture = colour_overlay(self.image, labels, alpha=alpha)
        picture = with_edges(picture, labels) if edges else picture
        return with_legend(picture, labels, self.names) if legend else picture


@dataclass(repr=False)
class Model(Encoder):
    """A `DualEncoder` that also takes files, images and words."""

    contrastive: Contrastive = "softmax"
    weights: str = "pretrained"
    """Which weights of a run it has: student or teacher; `pretrained` if silc did not train it."""
    dtype: torch.dtype = torch.float32
    """Precision of its towers, float32 or bfloat16; the weights stay float32 (autocast), features are float32."""

    def __repr__(self) -> str:
        count = sum(p.numel() for tower in (self.visual, self.model.text) for p in tower.parameters())
        size = f"{count / 1e6:.1f} M" if count >= 1e5 else f"{count:,}"
        where = f"{str(self.dtype).removeprefix('torch.')} on {self.device}"
        images = f"{self.preprocess.size} px in patches of {self.patch_size}"
        return f"Model({self.name}, {self.weights}: {size} parameters, {images}, {self.contrastive}, {where})"

    def to(self, device: str | torch.device | None = None, dtype: torch.dtype | str | None = None) -> Self:
        """Move the model with its head to a device, and/or set the precision that it computes in; returns the model.

        Raises:
            BadInput: no such device, or a precision other than float32 and bfloat16.
        """
        if dtype is not None:
            self.dtype = precision_of(dtype)
        if device is not None:
            where = place(device)
            for part in vars(self).values():
                if isinstance(part, nn.Module):
                    part.to(where)
        return self

    def encode_image(self, images: Tensor | Pictures) -> Tensor:
        """Unit-length features [B, D] of images, or of normalised pixels, float [B, 3, H, W].

        Raises:
            BadInput: something is not an image (`silc.inputs`).
        """
        with self._computing():
            return super().encode_image(images if _normalised(images) else self.pixels(images))

    def encode_pooled(self, images: Tensor) -> Tensor:
        """As `DualEncoder.encode_pooled`."""
        with self._computing():
            return super().encode_pooled(images)

    def encode_text(self, texts: Tensor | str | Sequence[str], *, normalize: bool = True) -> Tensor:
        """Features [B, D] of texts, or of ids [B, T]; of unit length unless `normalize` is off.

        Raises:
            BadInput: something that is no text.
        """
        if not isinstance(texts, Tensor):
            texts = self.tokenizer(text_list(texts)).to(self.device)
        with self._computing():
            return super().encode_text(texts, normalize=normalize)

    @torch.no_grad()
    def encode_dense(self, images: Tensor, readout: str) -> Tensor:
        """Patch features [B, h, w, D], not normalised, of normalised pixels; `tower` is the tower's own [B, h, w, C].

        Raises:
            BadInput: the model has no such readout.
        """
        with self._computing():
            if readout == TOWER:
                return self.visual.patches(images).float()
            return super().encode_dense(images, readout)

    def pixels(self, images: Pictures) -> Tensor:
        """Normalised pixels [B, 3, H, W], on the model's device, of images.

        Raises:
            BadInput: something is not an image (`silc.inputs`).
        """
        batch = [self.preprocess(open_image(image)) for image in each_of(images)]
        if not batch:
            raise BadInput("there is no image; give at least one")
        return self.preprocess.normalize(torch.stack(batch).to(self.device))

    def features(self, images: Pictures) -> Features:
        """Pooled and dense features of images, by the model's own preprocessing and first dense readout.

        Raises:
            BadInput: something is not an image (`silc.inputs`).
        """
        pixels = self.pixels(images)
        aligned = F.normalize(self.encode_dense(pixels, self.readouts[0]), dim=-1)
        return Features(self.encode_image(pixels), self.encode_dense(pixels, TOWER), aligned)

    def dense(
        self, images: Pictures, *, size: int | None = None, readout: str = "", batch_size: int = 8
    ) -> list[Tensor]:
        """Dense features [h, w, D] of each whole image, its aspect ratio kept, on the CPU; h and w differ between
        images.

        Args:
            size: pixels of the shorter side, rounded to whole patches. None is the model's own size.
            readout: a readout's name: its features are of unit length, in the space of the texts; by default the
                model's first. `tower` gives the image tower's own features [h, w, C], as it leaves them.
            batch_size: images in memory at a time; consecutive images of one shape share a forward pass.

        Raises:
            BadInput: something is not an image, an image is too thin, the size is below a patch, or there is no such
                readout.
        """
        return [features for _, features in self._dense(images, size, readout, batch_size)]

    def pca(
        self, images: Pictures, *, size: int | None = None, readout: str = TOWER, batch_size: int = 8
    ) -> list[Image.Image]:
        """Pictures, of the images' sizes, whose colours are the first three principal components of `dense` features.

        Components and colour range are computed over all images together, so their colours can be compared. Arguments
        and errors are those of `dense`.
        """
        found = list(self._dense(images, size, readout, batch_size))
        return component_pictures([features for _, features in found], [seen for seen, _ in found])

    def _dense(
        self, images: Pictures, size: int | None, readout: str, batch_size: int
    ) -> Iterator[tuple[tuple[int, int], Tensor]]:
        """(width, height) of each image, and its features."""
        asked = chosen(readout, (*self.readouts, TOWER), self.name)
        side = self.preprocess.size if size is None else size
        if side < self.patch_size:
            raise BadInput(f"size {side} is less than a patch of {self.patch_size} pixels; give at least that")
        for some in in_batches(images, batch_size):
            opened = [open_image(image) for image in some]
            sizes = [scaled_to_patches(*image.size, side, self.patch_size) for image in opened]
            for at, same in groupby(zip(sizes, opened, strict=True), key=lambda one: one[0]):
                alike = [image for _, image in same]
                pixels = torch.stack([scaled(image, at, self.preprocess.interpolation) for image in alike])
                found = self.encode_dense(self.preprocess.normalize(pixels.to(self.device)), asked)
                found = found if asked == TOWER else F.normalize(found, dim=-1)
                yield from zip((image.size for image in alike), found.cpu(), strict=True)

    def classify(
        self, images: Pictures, names: Sequence[str], templates: str | Sequence[str] = "clip7", *, batch_size: int = 32
    ) -> list[dict[str, float]]:
        """The probability of each name for each image, best first; see `probs` for what they sum to.

        Args:
            templates: prompts around the names: a set (clip80+1, clip80, clip7, cifar18, tcl9, maskclip85, plain), or
                texts with {} in the name's place.

        Raises:
            BadInput: no names, a name twice, no such prompts, or something that is not an image (`silc.inputs`).
        """
        classifier = self.classifier(names, templates, batch_size=batch_size)
        return [row for some in in_batches(images, batch_size) for row in classifier(some)]

    def classifier(
        self, names: Sequence[str], templates: str | Sequence[str] = "clip7", *, batch_size: int = 32
    ) -> Classifier:
        """`classify` for many images: the names are embedded once. Call it with as many images as fit a forward
        pass."""
        return Classifier(self, class_list(names), prompts_of(templates), at_least_one(batch_size))

    def segment(
        self,
        image: Picture,
        names: Sequence[str],
        config: EvalConfig | None = None,
        predictor: DensePredictor | None = None,
        *,
        decoder: str = "",
    ) -> Segmentation:
        """The class of each pixel among `names`.

        Args:
            config: sliding windows (TCL's by default) and decoder; if it has a `background`, that is the first of the
                names.
            predictor: makes the class maps in place of the model's decoder.
            decoder: a name of docs/evaluation.md, in place of the one in `config`; decoders that need another encoder
                use `model.second`.

        Raises:
            BadInput: no names, a name twice, no such decoder, or something that is not an image (`silc.inputs`).
        """
        config = config or EvalConfig()
        config = replace(config, decoder=decoder) if decoder else config
        return Segmenter(predictor or self, names, config)(image)

    def segmenter(self, names: Sequence[str], config: EvalConfig | None = None) -> Segmenter:
        """`segment` for many images: the names are embedded once."""
        return Segmenter(self, names, config)

    def probs(self, images: Tensor, texts: Tensor) -> Tensor:
        """Probabilities [B, N] of unit-length image features [B, D] and text features [N, D].

        With the softmax loss (CLIP) a row sums to one; with the sigmoid loss (SigLIP) each pair has its own
        probability.
        """
        logits = images @ texts.T * self.model.logit_scale.exp() + self.model.logit_bias
        return (logits.sigmoid() if self.contrastive == "sigmoid" else logits.softmax(dim=-1)).detach()

    def _computing(self) -> AbstractContextManager[object]:
        if self.dtype == torch.float32:
            return nullcontext()
        return torch.autocast(self.device.type, dtype=self.dtype)


def _normalised(images: Tensor | Pictures) -> TypeGuard[Tensor]:
    """Whether these are normalised pixels (`Preprocess.normalize`) rather than images."""
    return isinstance(images, Tensor) and images.ndim == 4 and images.is_floating_point()


def precision_of(given: torch.dtype | str) -> torch.dtype:
    """float32 or bfloat16, by torch's name or as a string.

    Raises:
        BadInput: another one.
    """
    found = PRECISIONS.get(str(given).removeprefix("torch."))
    if found is None:
        raise BadInput(f"dtype is float32 or bfloat16, not {given}; models are trained in these")
    return found


def text_list(texts: str | Iterable[str]) -> list[str]:
    """
    Raises:
        BadInput: something that is no text, or text with half a surrogate pair, which UTF-8 does not have.
    """
    several = isinstance(texts, Iterable) and not isinstance(texts, str | bytes)
    listed: list[Any] = list(texts) if several else [texts]
    for text in listed:
        if not isinstance(text, str) or text.encode(errors="ignore").decode() != text:
            raise BadInput(f"texts are one text or a list of them, e.g. ['a dog', 'a cat']; got {text!r}")
    return listed


def class_list(names: Sequence[str]) -> list[str]:
    """
    Raises:
        BadInput: no names, one twice, or one that is no text.
    """
    listed = [] if isinstance(names, str | bytes) or not isinstance(names, Iterable) else list(names)
    if not listed or not all(isinstance(name, str) for name in listed):
        raise BadInput(f"names must be a list of classes, e.g. ['road', 'car', 'sky']; got {names!r}")
    return list(distinct(text_list(listed), "names"))


def prompts_of(templates: str | Sequence[str]) -> list[str]:
    """The prompts of a set by name, or those that are given.

    Raises:
        BadInput: no such set, none, or one without {}.
    """
    if isinstance(templates, str) and "{}" not in templates:
        return prompt_set(templates)
    given = [templates] if isinstance(templates, str) else list(templates)
    for prompt in given or [""]:
        if "{}" not in prompt:
            raise BadInput(f"templates hold {{}} where the name goes, e.g. 'a photo of a {{}}.'; got {prompt!r}")
    return given


class Classifier:
    """Classifies images among fixed names; made by `Model.classifier`."""

    def __init__(self, model: Model, names: Sequence[str], prompts: Sequence[str], batch_size: int) -> None:
        self.model, self.names = model, names
        self.features = text_classifier(model, names, prompts, batch_size=batch_size).to(model.device)  # [C, D]

    def __call__(self, images: Pictures) -> list[dict[str, float]]:
        """The probability of each name for each image, best first, in one forward pass."""
        probabilities = self.model.probs(self.model.encode_image(images), self.features).cpu()
        ranked = (sorted(zip(self.names, row, strict=True), key=lambda one: -one[1]) for row in probabilities.tolist())
        return [dict(row) for row in ranked]


class Segmenter:
    """Segments images into fixed classes, by a model or by another predictor; see `Model.segment`."""

    def __init__(self, model: Model | DensePredictor, names: Sequence[str], config: EvalConfig | None = None) -> None:
        listed, config = class_list(names), config or EvalConfig()
        if config.names not in ("", "mmseg") or config.background_names:
            raise BadInput(
                "eval.names and eval.background_names are for a data set's classes; here `names` has them, leave the "
                "two out"
            )
        self.scorer, self.background = scorer_of(model, listed, config), config.background
        self.names = ["background", *listed] if self.background else listed

    def __call__(self, image: Picture) -> Segmentation:
        """The class of each pixel."""
        opened = open_image(image)
        (scores,) = score_maps([opened], self.scorer)
        labels = scores.labels(opened.height, opened.width, self.background)
        return Segmentation(opened, self.names, labels, scores)
