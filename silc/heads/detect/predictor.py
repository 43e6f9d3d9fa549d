"""Inference with a trained detector: from names or an example to boxes.

model = silc.load("out/detect")
model.detect("street.jpg", ["cat", "traffic light"]).overlay().save("found.png")
model.detect_like("street.jpg", "sign.jpg", box=(10, 20, 80, 90)).boxes
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from silc.errors import BadInput
from silc.eval.box_pictures import with_boxes
from silc.eval.detection import TEMPLATES, best, no_boxes, queries_of
from silc.heads.detect.augment import PADDING, Window, paste
from silc.heads.detect.boxes import corners, generalized_iou, overlaps
from silc.heads.detect.head import unit
from silc.inputs import open_image
from silc.predict import Model, class_list, prompts_of

if TYPE_CHECKING:
    from PIL import Image

    from silc.eval.average_precision import Detection
    from silc.heads.detect.model import Detector
    from silc.inputs import Picture

SCORE = 0.1
"""Boxes with a lower score are not shown (transformers' default)."""
MOST = 100
"""Maximum number of boxes shown for an image."""
EXAMPLE = "like the example"
NEAR = 0.8
"""A patch can represent an example if the IoU of their boxes is at least this fraction of the best IoU (OWL-ViT)."""


@dataclass(frozen=True)
class Detections:
    """The objects found in an image, those with the highest scores first."""

    image: Image.Image
    classes: Sequence[str]
    """The names that were asked for."""
    found: Sequence[Detection]

    @property
    def boxes(self) -> Tensor:
        """Boxes [n, 4]: left, top, right, bottom, in pixels of the image after its EXIF rotation."""
        rows = [(one.x, one.y, one.x + one.width, one.y + one.height) for one in self.found]
        return torch.tensor(rows).reshape(-1, 4)

    @property
    def scores(self) -> Tensor:
        """Scores [n], from 0 to 1; each name is scored independently."""
        return torch.tensor([one.score for one in self.found])

    @property
    def names(self) -> list[str]:
        """Names [n]."""
        return [self.classes[one.label] for one in self.found]

    def __len__(self) -> int:
        return len(self.found)

    def overlay(self) -> Image.Image:
        """The image with its boxes, their names and scores."""
        return with_boxes(self.image, self.found, self.classes)


class Settled(NamedTuple):
    """Names, and their features [Q, D]."""

    classes: Sequence[str]
    queries: Tensor


def detector_of(model: Model) -> DetectModel:
    """Return the model itself, if it finds boxes.

    Raises:
        BadInput: it does not.
    """
    if not isinstance(model, DetectModel):
        raise BadInput(no_boxes(model.name))
    return model


@dataclass(repr=False)
class DetectModel(Model):
    """A model that finds boxes: a `Detector` of `encoder.py`."""

    detector: Detector = field(kw_only=True)

    @property
    def record(self) -> Mapping[str, Any]:
        """Facts about the model for the records of its scores."""
        head = self.detector.head
        return {
            "head": "OWL-ViT" if head.objectness_head is None else "OWLv2",
            "image_size": self.preprocess.size,
            "resize": f"longer side, padded at right and bottom, {self.preprocess.interpolation}",
        }

    def entering(self, image: Image.Image) -> Tensor:
        """The input of the model for an image; see `Detector` of `encoder.py`."""
        size = self.preprocess.size
        square = torch.full((3, size, size), PADDING, dtype=torch.uint8)
        paste(square, image, Window(0, 0, *image.size), False, self.preprocess.interpolation)
        return square

    @torch.no_grad()
    def find(self, images: Tensor, queries: Tensor) -> tuple[Tensor, Tensor]:
        """Logits and boxes of images; see `Detector` of `encoder.py`."""
        with self._computing():
            found = self.detector.look(images, queries)
        return found.logits.float(), found.boxes.float()

    def detect(
        self,
        image: Picture,
        names: Sequence[str],
        *,
        templates: str | Sequence[str] = TEMPLATES,
        score: float = SCORE,
        most: int = MOST,
    ) -> Detections:
        """Find boxes of the named objects.

        Args:
            templates: prompts around the names, whose logits are averaged: a set by name, or texts with {}.
            score: minimum score, from 0 to 1.
            most: maximum number of boxes.

        Raises:
            BadInput: no names, a repeated name, unknown prompts, no image (`silc.inputs`), or a score outside 0..1.
        """
        return self.detect_by(image, self.named(names, templates), score=score, most=most)

    def named(
        self, names: Sequence[str], templates: str | Sequence[str] = TEMPLATES, *, batch_size: int = 64
    ) -> Settled:
        """Embed names once for `detect_by` on many images; `batch_size` texts at a time."""
        listed = class_list(names)
        return Settled(listed, queries_of(self, listed, prompts_of(templates), batch_size))

    def detect_by(self, image: Picture, asked: Settled, *, score: float = SCORE, most: int = MOST) -> Detections:
        """Like `detect`, with names that are already embedded.

        Raises:
            BadInput: no image (`silc.inputs`), or a score outside 0..1.
        """
        if not 0 <= score <= 1:
            raise BadInput(f"score is the lowest score of the boxes that are returned, from 0 to 1; got {score}")
        opened = open_image(image)
        logits, boxes = self.find(self._pixels(opened), asked.queries)
        found = best(logits[0], boxes[0], opened.size, most)
        return Detections(opened, asked.classes, [one for one in found if one.score >= score])

    def detect_like(
        self,
        image: Picture,
        example: Picture,
        box: Sequence[float],
        *,
        score: float = SCORE,
        most: int = MOST,
    ) -> Detections:
        """Find boxes of objects that look like an object in another picture.

        Args:
            box: box of the object in the example: left, top, right, bottom, in pixels.

        Raises:
            BadInput: as for `detect`; a box that is invalid, or outside the example.
        """
        query = self.example(example, box)
        return self.detect_by(image, Settled([EXAMPLE], query[None]), score=score, most=most)

    @torch.no_grad()
    def example(self, image: Picture, box: Sequence[float]) -> Tensor:
        """The query [D] of an object in an image: of the patches whose boxes fit it, the one least similar to the mean.

        If no box overlaps the object, the nearest box by generalised IoU is used. Patches of the padding are left out.

        Raises:
            BadInput: a box that is invalid, or outside the image; no image.
        """
        opened = open_image(image)
        left, top, right, bottom = (float(x) for x in box) if len(box) == 4 else (0.0,) * 4
        if not (0 <= left < right <= opened.width and 0 <= top < bottom <= opened.height):
            raise BadInput(
                f"box is (left, top, right, bottom) in pixels within the {opened.width} x {opened.height} example, "
                f"e.g. (0, 0, {opened.width}, {opened.height}); got {tuple(box)}"
            )
        with self._computing():
            placed, embeddings = self.detector.examples(self._pixels(opened))
        asked = torch.tensor([left, top, right, bottom], device=self.device) / max(opened.size)
        limits = torch.tensor(opened.size, device=self.device) / max(opened.size)
        boxes = corners(placed[0].float())
        seen = (boxes[:, :2] < limits).all(dim=1)
        seen |= ~seen.any()
        return unit(standing_for(asked, boxes[seen], embeddings[0][seen].float()))

    def _pixels(self, image: Image.Image) -> Tensor:
        return self.preprocess.normalize(self.entering(image)[None].to(self.device))


def standing_for(asked: Tensor, boxes: Tensor, embeddings: Tensor) -> Tensor:
    """Choose the embedding that represents a box [4], from embeddings [N, D] of an image's boxes, corners [N, 4].

    The choice is OWL-ViT's (scenic's `embed_image_query`), which compares embeddings before normalisation. If no box
    overlaps, scenic compares generalised IoUs with 0.8 of the best one; no box reaches this if the best is below 0.
    Here the nearest box is taken instead.
    """
    fit, _ = overlaps(boxes, asked)
    if fit.any():
        near = (fit >= NEAR * fit.max()).nonzero().flatten()
    else:
        near = generalized_iou(boxes, asked).argmax()[None]
    likeness = embeddings[near] @ embeddings.mean(dim=0)
    return embeddings[near[likeness.argmin()]]
