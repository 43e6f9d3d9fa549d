"""Class scores of an image, computed from its windows for the pixels that are needed, not for all at once.

A window holds the scores of its patches. To score a pixel, patch scores are upsampled bilinearly, put through a softmax
if the protocol has one, and averaged over the windows that hold the pixel. Labels are the classes with the highest
score after resizing. Memory holds the patches and a tile of pixels, for any size of image and any number of classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol, runtime_checkable

import torch

from silc.encoder import DensePredictor
from silc.preprocess import Neighbours, bilinear, neighbours

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from PIL import Image
    from torch import Tensor

AT_ONCE = 2**21
"""Limit for the number of scores in a tile."""
SHARPNESS = 100.0
"""Scale of the softmax for a pixel's confidence: the largest scale that CLIP trains with."""


@runtime_checkable
class ImagePredictor(DensePredictor, Protocol):
    """A `DensePredictor` that takes whole images and makes its own views of them."""

    def score_map(self, image: Image.Image, classes: Tensor, name: str = "") -> ScoreMap:
        """Class scores of an image; `name` names the image in error messages.

        Raises:
            BadInput: an image too thin to be scaled; scores that are not finite.
        """
        ...


class Box(NamedTuple):
    """Pixels [y1, y2) x [x1, x2)."""

    y1: int
    x1: int
    y2: int
    x2: int


@dataclass(frozen=True)
class Window:
    """The scores of one window's patches, and how they lie over its pixels."""

    box: Box
    """The window's place in the image."""
    patches: Tensor  # [C, h, w]
    height: int
    width: int
    """Height and width, in pixels, that the patches cover."""
    top: int = 0
    left: int = 0
    """Where the box begins in these pixels; the pixels around it are padding."""

    def at(self, rows: Tensor, columns: Tensor) -> Tensor:
        """Scores [C, R, W] at some rows int64 [R] and columns int64 [W] of the box."""
        _, high, wide = self.patches.shape
        down = neighbours(high, self.height, rows + self.top)
        return bilinear(self.patches, down, neighbours(wide, self.width, columns + self.left))


@dataclass(frozen=True)
class ScoreMap:
    """Mean scores [C, height, width] of the windows that cover an image."""

    windows: Sequence[Window]
    height: int
    width: int
    softmax: bool = False
    """Whether each window's scores go through a softmax over the classes before they are averaged."""

    @property
    def num_classes(self) -> int:
        """Number of classes, C."""
        return len(self.windows[0].patches)

    def whole(self) -> Tensor:
        """The scores of all pixels [C, height, width]: large if there are many classes."""
        return self.at(self._places(self.height), self._places(self.width))

    def at(self, rows: Tensor, columns: Tensor) -> Tensor:
        """Scores [C, R, W] at some rows int64 [R] and columns int64 [W], each ascending."""
        total = self.windows[0].patches.new_zeros(self.num_classes, len(rows), len(columns))
        visits = torch.zeros_like(total[0])
        for window in self.windows:
            y1, x1, y2, x2 = window.box
            down, across = _inside(rows, y1, y2), _inside(columns, x1, x2)
            if down.start == down.stop or across.start == across.stop:
                continue
            scores = window.at(rows[down] - y1, columns[across] - x1)
            total[:, down, across] += scores.softmax(dim=0) if self.softmax else scores
            visits[down, across] += 1
        return total.div_(visits)

    def labels(self, height: int, width: int, background: float = 0.0, confidence: float = 0.0) -> Tensor:
        """Best class int64 [height, width], on the CPU, of the scores resized bilinearly.

        With a `background` threshold classes count from 1, and a pixel without a score above it is 0. With `confidence`
        a pixel is -1 if no class has that probability: softmax over the classes of SHARPNESS times the scores.
        """
        labels = torch.empty(height, width, dtype=torch.int64)
        for y, x in _tiles(height, width, self.num_classes):
            rows, down = looked_at(neighbours(self.height, height, self._places(y.stop)[y]))
            columns, across = looked_at(neighbours(self.width, width, self._places(x.stop)[x]))
            scores = bilinear(self.at(rows, columns), down, across)
            best, index = scores.max(dim=0)
            found = torch.where(best > background, index + 1, 0) if background else index
            if confidence:
                found = found.where((SHARPNESS * scores).softmax(dim=0).amax(dim=0) >= confidence, -1)
            labels[y, x] = found
        return labels

    def _places(self, length: int) -> Tensor:
        return torch.arange(length, device=self.windows[0].patches.device)


def _tiles(height: int, width: int, num_classes: int) -> Iterator[tuple[slice, slice]]:
    """Rows and columns of tiles that cover height x width, each with at most AT_ONCE scores."""
    columns = min(width, max(1, AT_ONCE // num_classes))
    rows = max(1, AT_ONCE // (num_classes * columns))
    for top in range(0, height, rows):
        for left in range(0, width, columns):
            yield slice(top, min(top + rows, height)), slice(left, min(left + columns, width))


def _inside(places: Tensor, start: int, stop: int) -> slice:
    """The slice of the ascending places that lie in [start, stop)."""
    bounds = torch.searchsorted(places, places.new_tensor([start, stop]))
    return slice(*bounds.tolist())


def looked_at(around: Neighbours) -> tuple[Tensor, Neighbours]:
    """The distinct places of the neighbours, ascending, and the neighbours as indices into these places."""
    places = torch.cat([around.before, around.after]).unique()
    before, after = (torch.searchsorted(places, each) for each in around[:2])
    return places, Neighbours(before, after, around.share)
