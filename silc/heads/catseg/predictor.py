"""Inference with CAT-Seg: from class names to class maps, by its own protocol.

An image is scaled to a square canvas of 5/3 of the crop. The model sees overlapping windows of the crop's size, and the
whole image scaled to that size. Probabilities of overlapping windows are averaged, then averaged with the whole view.
No map of all classes at the canvas's size is stored: memory holds each view's own logits and a tile of pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from silc.eval.embed import finite
from silc.eval.prompts import prompts, templates
from silc.eval.score_map import Box, ScoreMap, Window, looked_at
from silc.eval.sliding import rescale_size, scaled, windows
from silc.predict import Model
from silc.preprocess import bilinear, neighbours

if TYPE_CHECKING:
    from PIL import Image

    from silc.encoder import DualEncoder
    from silc.heads.catseg.model import CatSeg

LONGEST = 4
"""Longest allowed longer side before an image is squashed, in canvas sizes: detectron2 has 2560 pixels for 640."""
TEXTS_AT_ONCE = 256
CLASSES_AT_ONCE = 256
"""Maximum of views times classes in one pass of the head, which takes several views if there are few classes."""


def canvas_of(crop: int) -> int:
    """Side of the canvas in pixels: 640 for a crop of 384."""
    return 5 * crop // 3


def stride_of(crop: int) -> int:
    """Stride of the windows in pixels: int(384 (1 - 0.333)) = 256 for a crop of 384."""
    return int(crop * (1 - 0.333))


class Probabilities(Window):
    """A window whose logits become probabilities after upsampling."""

    def at(self, rows: Tensor, columns: Tensor) -> Tensor:
        """Probabilities [C, R, W] at some rows and columns."""
        return super().at(rows, columns).sigmoid()


@dataclass(frozen=True)
class TwoScales(ScoreMap):
    """Mean of the windows' probabilities and of those of a view of the whole image."""

    whole_view: Window = field(kw_only=True)

    def at(self, rows: Tensor, columns: Tensor) -> Tensor:
        """Probabilities [C, R, W] at some rows and columns of the canvas."""
        view = self.whole_view
        down, below = looked_at(neighbours(view.height, self.height, rows))
        across, beside = looked_at(neighbours(view.width, self.width, columns))
        return (super().at(rows, columns) + bilinear(view.at(down, across), below, beside)) / 2


@dataclass(repr=False)
class CatSegModel(Model):
    """A model whose class maps are CAT-Seg's."""

    catseg: CatSeg = field(kw_only=True)
    crop: int = field(kw_only=True)
    templates: str = field(kw_only=True)
    """Name of the prompt set."""

    @property
    def rules(self) -> Mapping[str, Any]:
        """Rules of its protocol: its own windows and prompts."""
        return {
            "templates": self.templates,
            "ensemble": "mean, normalize",  # not used by `classes`; see `record`
            "shorter": canvas_of(self.crop),
            "longer": None,
            "rounding": "squash",
            "interpolation": "bilinear",
            "window": self.crop,
            "stride": stride_of(self.crop),
            "fit": "resize",
            "softmax": False,
        }

    @property
    def record(self) -> Mapping[str, Any]:
        """Facts about the model for the records of its scores."""
        named = {"decoder": "catseg", "protocol": "catseg", "readout": self.catseg.readout}
        return named | {"whole_view": True, "ensemble": "each prompt is a channel"}

    def classes(self, names: Sequence[str], embed: Callable[[DualEncoder, Sequence[str]], Tensor]) -> Tensor:
        """Unit-length text features [C, P, D] of each name's first synonym, computed again at every call."""
        return self.embedded(prompt_ids(self, names, self.templates).to(self.device))

    @torch.no_grad()
    def embedded(self, ids: Tensor) -> Tensor:
        """Unit-length text features [C, P, D] of ids int64 [C, P, L]."""
        with self._computing():
            parts = ids.split(max(1, TEXTS_AT_ONCE // ids.shape[1]))
            return torch.cat([self.catseg.embedded(some).float() for some in parts])

    @torch.no_grad()
    def maps(self, images: Tensor, classes: Tensor) -> Tensor:
        """Logits [B, C, h, w] of normalised square pixels [B, 3, S, S]; image by image if there are many classes."""
        with self._computing():
            parts = images.split(max(1, CLASSES_AT_ONCE // len(classes)))
            return torch.cat([self.catseg.logits(some, classes).float() for some in parts])

    def score_map(self, image: Image.Image, classes: Tensor, name: str = "") -> ScoreMap:
        """Probabilities of an image at the canvas's size.

        Raises:
            BadInput: an image too thin to be scaled; probabilities that are not finite.
        """
        canvas = canvas_of(self.crop)
        size = rescale_size(*image.size, canvas, LONGEST * canvas)
        return self.scores(scaled(image, size, "bilinear", name)[None].float(), classes)

    def scores(self, pixels: Tensor, classes: Tensor) -> TwoScales:
        """Like `score_map`, for float pixels [1, 3, H, W] from 0 to 255."""
        crop, canvas = self.crop, canvas_of(self.crop)
        views, boxes = views_of(pixels, crop)
        seen = self.maps(self.preprocess.normalize(torch.stack(views).to(self.device)), classes)
        *local, whole = (
            Probabilities(box, finite(own, self), crop, crop)
            for box, own in zip([*boxes, Box(0, 0, crop, crop)], seen, strict=True)
        )
        return TwoScales(local, canvas, canvas, whole_view=whole)


def views_of(pixels: Tensor, crop: int) -> tuple[list[Tensor], list[Box]]:
    """Windows [3, crop, crop] of pixels [1, 3, H, W] on the canvas, the whole image last; and the windows' boxes."""
    canvas = canvas_of(crop)
    square = F.interpolate(pixels, (canvas, canvas), mode="bilinear", align_corners=False)[0]
    boxes = windows(canvas, canvas, crop, stride_of(crop))
    whole = F.interpolate(pixels, (crop, crop), mode="bilinear", align_corners=False)[0]
    return [*(square[:, box.y1 : box.y2, box.x1 : box.x2] for box in boxes), whole], boxes


def prompt_ids(model: DualEncoder, names: Sequence[str], prompt_set: str) -> Tensor:
    """Token ids int64 [C, P, L] of each name's first synonym in all prompts of a set."""
    around = templates(prompt_set)
    texts = [text for name in names for text in prompts(name.split(", ")[0], around)]
    return model.tokenizer(texts).view(len(names), len(around), -1)
