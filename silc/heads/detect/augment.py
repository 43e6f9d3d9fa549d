"""Random training pictures: the number of images in one (mosaics), the crop of each image, and its flip.

An image is scaled until its longer side fills its part of the square. It lies at the upper left; grey fills the rest,
as in inference. A crop shows at least half of an object's area, or nothing of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol

import torch
from PIL import Image

from silc.eval.datasets import Corners, iou
from silc.preprocess import resample

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from silc.eval.datasets import Box
    from silc.heads.detect.config import BoxDataConfig
    from silc.preprocess import Interpolation

PADDING = 128
TRIES = 10
"""Crops that are tried before the whole image is taken."""
HALF = 0.5
ASPECT = 4 / 3
"""Largest factor between the aspect ratios of a crop and of its image."""
SAME = 0.9
"""Above this IoU two boxes are one object with two names (OWL-ViT)."""


class Sample(Protocol):
    """An image with boxes, and its place in its set."""

    @property
    def index(self) -> int: ...
    @property
    def image(self) -> Image.Image: ...
    @property
    def objects(self) -> Sequence[Box]: ...


class Part(NamedTuple):
    """What one of the n x n cells of a picture shows."""

    image: int | None
    """Index of the image in its dataset; None: only grey."""
    crowds: frozenset[int]
    """Classes of crowds in this cell; they count neither as present nor as absent."""


class Picture(NamedTuple):
    """A training picture, as a batch needs it."""

    pixels: Tensor  # uint8 [3, S, S]
    boxes: Sequence[tuple[float, float, float, float]]
    """Centre and size of M objects, as fractions of the square's side."""
    labels: Sequence[Sequence[int]]
    """Classes of each object."""
    parts: Sequence[Part]
    """The n x n cells, row by row."""


class Window(NamedTuple):
    """A crop of an image, in the image's pixels."""

    left: int
    top: int
    right: int
    bottom: int


def compose(
    sample: Sample,
    another: Callable[[np.random.Generator], Sample | None],
    draws: np.random.Generator,
    config: BoxDataConfig,
    size: int,
    interpolation: Interpolation,
) -> Picture:
    """Make a picture of n x n images: the given one, in a random cell, and others.

    Args:
        another: draws an image of the set.
        size: side of the picture in pixels.
    """
    n = 1 + int(draws.choice(len(config.mosaics), p=config.mosaics))
    place, tile = int(draws.integers(n * n)), size // n
    pixels = torch.full((3, size, size), PADDING, dtype=torch.uint8)
    corners, labels, parts = list[Corners](), list[int](), list[Part]()
    for number in range(n * n):
        one = sample if number == place else another(draws)
        if one is None:
            parts.append(Part(None, frozenset()))
            continue
        window = drawn_window(one.image.size, one.objects, draws, config.crops)
        flipped = config.flip and draws.random() < 0.5
        top, left = tile * (number // n), tile * (number % n)
        factor = paste(pixels[:, top : top + tile, left : left + tile], one.image, window, flipped, interpolation)
        shown = [(box, cut) for box in one.objects if (cut := inside(box, window)) is not None]
        parts.append(Part(one.index, frozenset(box.label for box, _ in shown if box.crowd)))
        for box, cut in shown:
            if box.crowd:
                continue
            if flipped:
                width = window.right - window.left
                cut = (width - cut[2], cut[1], width - cut[0], cut[3])
            corners.append(
                (left + factor * cut[0], top + factor * cut[1], left + factor * cut[2], top + factor * cut[3])
            )
            labels.append(box.label)
    return Picture(pixels, *merged(corners, labels, size), parts)


def paste(place: Tensor, image: Image.Image, window: Window, flipped: bool, interpolation: Interpolation) -> float:
    """Paste a window of an image at the upper left of a cell uint8 [3, S, S]; its longer side fills the cell.

    Returns:
        The factor by which lengths in the image were scaled.
    """
    size = place.shape[-1]
    cut = image if window == (0, 0, *image.size) else image.crop(window)
    cut = cut.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if flipped else cut
    factor = size / max(cut.size)
    width, height = (max(1, round(factor * side)) for side in cut.size)
    place[:, :height, :width] = resample(cut, width, height, interpolation)
    return factor


def drawn_window(size: tuple[int, int], objects: Sequence[Box], draws: np.random.Generator, least: float) -> Window:
    """Draw a crop of at least `least` of an image's area that `keeps` all objects; the whole image if none is found."""
    width, height = size
    whole = Window(0, 0, width, height)
    if least >= 1:
        return whole
    for _ in range(TRIES):
        area, aspect = draws.uniform(least, 1), math.exp(draws.uniform(-math.log(ASPECT), math.log(ASPECT)))
        across = min(width, max(1, round(width * math.sqrt(area * aspect))))
        down = min(height, max(1, round(height * math.sqrt(area / aspect))))
        left, top = int(draws.integers(width - across + 1)), int(draws.integers(height - down + 1))
        window = Window(left, top, left + across, top + down)
        if all(keeps(window, box) for box in objects):
            return window
    return whole


def keeps(window: Window, box: Box) -> bool:
    """Whether a window shows nothing of a box, or at least half of it; always True for crowds."""
    cut = inside(box, window)
    if cut is None or box.crowd:
        return True
    return (cut[2] - cut[0]) * (cut[3] - cut[1]) >= HALF * box.width * box.height


def inside(box: Box, window: Window) -> Corners | None:
    """Corners of a box's visible part, from the window's upper left; None if nothing is visible."""
    left, top = max(box.x, window.left) - window.left, max(box.y, window.top) - window.top
    right = min(box.x + box.width, window.right) - window.left
    bottom = min(box.y + box.height, window.bottom) - window.top
    return (left, top, right, bottom) if right > left and bottom > top else None


def merged(
    corners: Sequence[Corners], labels: Sequence[int], size: int
) -> tuple[list[tuple[float, float, float, float]], list[list[int]]]:
    """Merge boxes of IoU above `SAME` into objects with several names: centres and sizes as fractions, and classes."""
    kept, names = list[Corners](), list[list[int]]()
    for own, label in zip(corners, labels, strict=True):
        same = next((i for i, other in enumerate(kept) if label not in names[i] and iou(own, other) > SAME), None)
        if same is None:
            kept.append(own)
            names.append([label])
        else:
            names[same].append(label)
    boxes = [
        ((x0 + x1) / 2 / size, (y0 + y1) / 2 / size, (x1 - x0) / size, (y1 - y0) / size) for x0, y0, x1, y1 in kept
    ]
    return boxes, names
