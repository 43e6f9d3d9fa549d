"""Compare what was written, read back, with the model it was written from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from silc.errors import BadInput
from silc.eval.config import EvalConfig
from silc.eval.decoders import predictor_of
from silc.eval.joint import JointPredictor
from silc.eval.score_map import Box, Window
from silc.models.silc import Encoder

if TYPE_CHECKING:
    from torch import Tensor

    from silc.interop.pretrained import Pretrained

FLOAT = 1e-5
"""Tolerance of unit-length features and cosines in float32: other order of sums (two-block towers differed by 1e-6)."""
COSINE = 1e-3
"""Tolerance of 1 - cosine of int8 features: weights' errors average out over a row (two-block towers had 5e-5)."""
MAPS = 1e-3
"""Tolerance of class maps: their probabilities are of cosines times 100, so 1e-5 becomes 1e-3."""
Compare = Callable[[str, str, "Tensor", "Tensor"], "Check"]
"""(format, what, theirs, ours): raises where they differ by too much."""
TEXTS = ("a photo of a cat", "Two dogs, on the beach", "state-of-the-art: a street at night", "a", "red car " * 60)
"""Texts to compare: plain ones, one with punctuation, the shortest, and one that is cut."""


@dataclass(frozen=True)
class Check:
    """How far something that was read back is from the model in memory."""

    format: str
    what: str
    difference: float
    tolerance: float

    def __str__(self) -> str:
        return f"{self.format:<14}{self.what:<34}{self.difference:.1e} (at most {self.tolerance:.0e})"


@dataclass(frozen=True)
class Probe:
    """The model in memory, with random pixels and some texts; the same ones for every format."""

    pretrained: Pretrained
    decoder: str = ""
    """The decoder's name, for the formats that have class maps; empty: there are none."""

    @cached_property
    def model(self) -> Encoder:
        """The towers as silc computes them."""
        towers, known = self.pretrained.build(), self.pretrained
        return Encoder(towers, towers.visual, known.tokenizer, known.preprocess, known.source)

    @cached_property
    def picture(self) -> Image.Image:
        """Noise whose sides are 2 and 3 times the model's: all rules for cutting the centre agree on it."""
        size, noise = self.model.preprocess.size, np.random.default_rng(0)
        return Image.fromarray(noise.integers(0, 256, (2 * size, 3 * size, 3), dtype=np.uint8))

    @cached_property
    def pixels(self) -> Tensor:
        """The picture [3, S, S] as the model wants it."""
        return self.model.preprocess.normalize(self.model.preprocess(self.picture))

    def images(self, batch: int = 2, height: int = 0, width: int = 0) -> Tensor:
        """Random normalised images [batch, 3, height, width], of the model's size unless given."""
        size = self.model.preprocess.size
        shape = (batch, 3, height or size, width or size)
        return torch.randn(shape, generator=torch.Generator().manual_seed(0))

    @cached_property
    def ids(self) -> Tensor:
        """Token ids [N, T] of `TEXTS`."""
        return self.model.tokenizer(TEXTS)

    @cached_property
    def image(self) -> Tensor:
        """Unit-length features [2, D] of `images()`."""
        return self.model.encode_image(self.images())

    @cached_property
    def text(self) -> Tensor:
        """Unit-length features [N, D] of `ids`."""
        return self.model.encode_text(self.ids)

    @torch.no_grad()
    def segmented(self, images: Tensor, classes: Tensor) -> Tensor:
        """Class maps [1, N, h, w] of an image as one window, for unit-length text features [N, D], by `decoder`."""
        predictor = predictor_of(self.model, EvalConfig(decoder=self.decoder))
        (maps,), (height, width) = predictor.maps(images, classes), images.shape[-2:]
        if isinstance(predictor, JointPredictor):
            whole = Window(Box(0, 0, height, width), maps, height, width)
            (maps,) = (window.patches for window in predictor.joined([whole], classes))
        return maps[None]  # type: ignore[no-any-return]

    @torch.no_grad()
    def checks(
        self, name: str, *, ids: Tensor, pixels: Tensor | None, image: Tensor, text: Tensor, logits: Tensor
    ) -> list[Check]:
        """Compare a library's results with ours: token ids of `TEXTS`; pixels of `picture` (None: known to differ);
        features [., D] and logits of `images()` and `ids`.

        Raises:
            BadInput: something differs by too much.
        """
        towers = self.model.model
        scale = towers.logit_scale.exp()
        ours = self.image @ self.text.T * scale + towers.logit_bias
        found = [compare(name, "token ids", ids, self.ids, 0.0)]
        if pixels is not None:
            # Libraries scale 8-bit values with their own rounding: one step of 255.
            step = 1.01 / 255 / min(self.model.preprocess.std)
            found.append(compare(name, "pixels", pixels, self.pixels, step))
        return [
            *found,
            compare(name, "image features", F.normalize(image, dim=-1), self.image, FLOAT),
            compare(name, "text features", F.normalize(text, dim=-1), self.text, FLOAT),
            compare(name, "logits", logits, ours, FLOAT * max(1.0, float(scale))),
        ]


def compare(name: str, what: str, theirs: Tensor, ours: Tensor, tolerance: float = FLOAT) -> Check:
    """The largest difference of two tensors.

    Raises:
        BadInput: another shape, not finite, or a difference beyond the tolerance.
    """
    if theirs.shape != ours.shape:
        raise BadInput(
            f"{name}: {what} read back have shape {list(theirs.shape)}, the model's {list(ours.shape)}; nothing was "
            "written"
        )
    difference = float((theirs.double() - ours.double()).abs().max())
    return _within(Check(name, what, difference, tolerance))


def compare_directions(name: str, what: str, theirs: Tensor, ours: Tensor) -> Check:
    """The largest 1 - cosine of two sets of features [..., D].

    Raises:
        BadInput: it is beyond `COSINE`.
    """
    cosine = F.cosine_similarity(theirs.double(), ours.double(), dim=-1)
    return _within(Check(name, what, float((1 - cosine).max()), COSINE))


def _within(check: Check) -> Check:
    if not check.difference <= check.tolerance:  # true for NaN, too
        raise BadInput(
            f"{check.format}: {check.what} read back differ from the model's by {check.difference:.2g}, more than "
            f"{check.tolerance:.0e}; nothing was written"
        )
    return check
