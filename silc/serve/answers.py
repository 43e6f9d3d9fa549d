"""Answers of models: pictures and words in, the API's answers out. Nothing here knows HTTP."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from silc.dense import component_pictures, scaled_to_patches
from silc.distributed import place
from silc.encoder import DensePredictor
from silc.errors import BadInput
from silc.eval.captioning import CAPTION
from silc.eval.config import NEED_A_SECOND, EvalConfig
from silc.eval.decoders import DECODERS, predictor_of
from silc.eval.pictures import palette_image
from silc.eval.prompts import templates
from silc.eval.score_map import ScoreMap
from silc.heads.decoder.predictor import TextModel, writing_model
from silc.heads.detect.predictor import DetectModel, detector_of
from silc.loading import Weights, load_any
from silc.predict import TOWER, Model, Segmentation, Segmenter
from silc.serve import schema
from silc.serve.rle import encoded
from silc.settings import nearest

REMEMBERED = 8
"""Number of lists of words, and of pictures, whose features are kept for the next question."""
LARGEST = 1024
"""Most pixels of the longer side of a picture of components, and most rows and columns of a heat map."""
MOST_PATCHES = 8192
"""Most patches of a picture that is seen as a whole."""


def loaded(sources: Iterable[str], weights: Weights, device: str) -> dict[str, Model]:
    """Load the models to serve, by the names that users see; student and teacher of a run are two models.

    Raises:
        BadInput: as `silc.load`.
    """
    models: dict[str, Model] = {}
    for source in sources:
        found = load_any(source, weights=weights, device=place(device))
        for which in found.models:
            model = found.ready(which)
            name = model.name if which == "pretrained" else f"{model.name}, {which}"
            again = sum(known == name or known.startswith(f"{name} #") for known in models)
            models[f"{name} #{again + 1}" if again else name] = model
    return models


def decoders_of(model: Model) -> list[str]:
    """The decoders that work with a model, its default first."""
    return [name for name in DECODERS if name not in NEED_A_SECOND and _goes_with(name, model)]


def _goes_with(decoder: str, model: Model) -> bool:
    try:
        predictor_of(model, EvalConfig(decoder=decoder))
    except BadInput:
        return False
    return True


class Answers:
    """Answers questions by the models, one at a time. Features of words and pictures are kept for the next question."""

    def __init__(self, models: Mapping[str, Model], picture: Callable[[str], Image.Image]) -> None:
        """
        Args:
            picture: gives a picture by its name.
        """
        self.models, self.picture = models, picture
        self._segmenter = lru_cache(REMEMBERED)(self._new_segmenter)
        self._patches = lru_cache(REMEMBERED)(self._new_patches)

    def model(self, name: str) -> Model:
        """
        Raises:
            BadInput: there is none of this name.
        """
        if name not in self.models:
            raise BadInput(f"no model {name!r}{nearest(name, self.models) or ';'} GET /api/server lists them")
        return self.models[name]

    def segment(self, asked: schema.SegmentRequest) -> schema.Segmentations:
        """Labels, masks and, if asked for, heat maps of each picture."""
        segmenter = self._segmenter(asked.model, tuple(asked.names), asked.decoder, asked.windows)
        found = (segmenter(self.picture(name)) for name in asked.pictures)
        return schema.Segmentations(results=[_segmented(one, asked.heat) for one in found])

    def classify(self, asked: schema.ClassifyRequest) -> schema.Classifications:
        """The probabilities of the names for each picture."""
        images = [self.picture(name) for name in asked.pictures]
        rows = self.model(asked.model).classify(images, asked.names, templates(asked.templates))
        ranked = [[schema.Probability(name=name, probability=share) for name, share in row.items()] for row in rows]
        return schema.Classifications(results=ranked)

    def components(self, asked: schema.Request) -> schema.Components:
        """Pictures whose colours are the principal components of all the pictures' patches together."""
        sizes = [_at_most(self.picture(name).size, LARGEST) for name in asked.pictures]
        maps = [self._patches(asked.model, name) for name in asked.pictures]
        return schema.Components(results=[png(one) for one in component_pictures(maps, sizes)])

    def similar(self, asked: schema.SimilarRequest) -> schema.Similarities:
        """Cosines of the patch at a place of the first picture with the patches of each picture."""
        maps = [F.normalize(self._patches(asked.model, name), dim=-1) for name in asked.pictures]
        rows, columns, _ = maps[0].shape
        row, column = min(int(asked.y * rows), rows - 1), min(int(asked.x * columns), columns - 1)
        return schema.Similarities(
            row=row, column=column, results=[_likeness(one @ maps[0][row, column]) for one in maps]
        )

    def detect(self, asked: schema.DetectRequest) -> schema.Detections:
        """Boxes of what is named, in each picture."""
        detector = detector_of(self.model(asked.model))
        settled = detector.named(asked.names, templates(asked.templates))
        found = [detector.detect_by(self.picture(name), settled, score=asked.score) for name in asked.pictures]
        return schema.Detections(
            results=[[schema.Box(name=one.classes[box.label], **_place(box)) for box in one.found] for one in found]
        )

    def caption(self, asked: schema.Request) -> schema.Written:
        """The caption that a text decoder writes for each picture."""
        writer = writing_model(self.model(asked.model))
        return schema.Written(results=writer.caption([self.picture(name) for name in asked.pictures]))

    def answer(self, asked: schema.AnswerRequest) -> schema.Written:
        """The answer of a text decoder to one question about each picture."""
        writer = writing_model(self.model(asked.model))
        return schema.Written(results=[writer.answer(self.picture(name), asked.question) for name in asked.pictures])

    def describe(self, name: str) -> schema.ModelInfo:
        """What a model is and can do."""
        model = self.models[name]
        own = isinstance(model, DensePredictor)
        tasks = model.prefixes if isinstance(model, TextModel) else ()
        return schema.ModelInfo(
            id=name,
            size=model.preprocess.size,
            patch=model.patch_size,
            description=repr(model).partition(": ")[2].removesuffix(")"),
            decoders=["cosine"] if own else decoders_of(model),
            detects=isinstance(model, DetectModel),
            captions=CAPTION in tasks,
            answers=any(task != CAPTION for task in tasks),
        )

    def _new_segmenter(self, model: str, names: tuple[str, ...], decoder: str, windows: str) -> Segmenter:
        return self.model(model).segmenter(names, EvalConfig(decoder=decoder, segmentation=windows))

    def _new_patches(self, model: str, picture: str) -> Tensor:
        """Features [h, w, C] of a picture's patches.

        Raises:
            BadInput: the picture is too thin: it has too many patches, which all attend to each other.
        """
        seen, image = self.model(model), self.picture(picture)
        width, height = scaled_to_patches(*image.size, seen.preprocess.size, seen.patch_size)
        if (patches := width * height // seen.patch_size**2) > MOST_PATCHES:
            raise BadInput(
                f"a picture of {image.width} x {image.height} pixels is too thin: it has {patches:,} patches, the "
                f"limit is {MOST_PATCHES:,}; cut it into pieces"
            )
        (found,) = seen.dense(image, readout=TOWER)
        return found


def png(image: Image.Image) -> str:
    """An image's PNG file, in base64."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=1)
    return base64.b64encode(buffer.getvalue()).decode()


def _segmented(found: Segmentation, heat: bool) -> schema.Segmented:
    labels, names = found.labels.numpy().astype(np.uint8), found.names
    height, width = labels.shape
    shares = np.bincount(labels.ravel(), minlength=len(names)) / labels.size
    masks = [
        schema.Mask(name=name, share=share, rle=schema.Rle(size=(height, width), counts=counts))
        for name, share, counts in zip(names, shares.tolist(), encoded(labels, len(names)), strict=True)
    ]
    return schema.Segmented(
        labels=png(palette_image(labels, len(names))), masks=masks, heat=_heat(found.map) if heat else None
    )


def _heat(scores: ScoreMap) -> schema.Heat:
    """Heat maps of each class; of a large map only some rows and columns."""
    device = scores.windows[0].patches.device
    rows, columns = (_spread(length).to(device) for length in (scores.height, scores.width))
    return _shades(scores.at(rows, columns).cpu())


def _spread(length: int) -> Tensor:
    """At most LARGEST indices below `length`, evenly spread."""
    return torch.linspace(0, length - 1, min(length, LARGEST)).round().long()


def _shades(scores: Tensor) -> schema.Heat:
    """Heat maps of scores [C, h, w]."""
    low, high = float(scores.min()), float(scores.max())
    shades = ((scores - low) * (255 / max(high - low, 1e-12))).round().clamp(0, 255).to(torch.uint8)
    return schema.Heat(low=low, high=high, maps=[png(Image.fromarray(one)) for one in shades.numpy()])


def _likeness(cosines: Tensor) -> schema.Likeness:
    """The API's form of cosines [h, w]."""
    rows, columns = cosines.shape
    return schema.Likeness(rows=rows, columns=columns, values=np.round(cosines.double().numpy(), 4).ravel().tolist())


def _place(box: object) -> dict[str, float]:
    return {key: float(getattr(box, key)) for key in ("score", "x", "y", "width", "height")}


def _at_most(size: Sequence[int], longest: int) -> tuple[int, int]:
    """(width, height), made smaller where the longer side is above `longest`."""
    factor = min(1.0, longest / max(size))
    return max(1, round(size[0] * factor)), max(1, round(size[1] * factor))
