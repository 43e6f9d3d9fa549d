"""What training draws for a picture: how many images it shows, what is cut out of each, and which way they face.

An image is scaled until its longer side fills its part of the square, at the upper left; grey fills the rest, as it
does in use. A crop cuts no object below half of its area: either so much of it is seen, or nothing.
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
"""Crops that are drawn before an image stays whole."""
HALF = 0.5
ASPECT = 4 / 3
"""Most that a crop's aspect differs from its image's, as a factor."""
SAME = 0.9
"""IoU from which two boxes are one object with two names (OWL-ViT)."""


class Sample(Protocol):
    """An image with boxes, and its place in its set."""

    @property
    def index(self) -> int: ...
    @property
    def image(self) -> Image.Image: ...
    @property
    def objects(self) -> Sequence[Box]: ...


class Part(NamedTuple):
    """What one of the n x n places of a picture shows."""

    image: int | None
    """Which image of the set; None: nothing but grey."""
    crowds: frozenset[int]
    """Classes of crowds that are seen there: neither there nor absent."""


class Picture(NamedTuple):
    """What a batch takes."""

    pixels: Tensor  # uint8 [3, S, S]
    boxes: Sequence[tuple[float, float, float, float]]
    """M objects: centre and size, in shares of the square."""
    labels: Sequence[Sequence[int]]
    """Classes of each object."""
    parts: Sequence[Part]
    """Its n x n places, row by row."""


class Window(NamedTuple):
    """What is cut out of an image, in its pixels."""

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
    """A picture of n x n images: the one given, in a place of its own, and others.

    Args:
        another: draws an image of the set.
        size: pixels of a side.
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
    """Put what a window shows at the upper left of a place uint8 [3, S, S], its longer side filling it.

    Returns:
        What lengths in the image are multiplied by.
    """
    size = place.shape[-1]
    cut = image if window == (0, 0, *image.size) else image.crop(window)
    cut = cut.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if flipped else cut
    factor = size / max(cut.size)
    width, height = (max(1, round(factor * side)) for side in cut.size)
    place[:, :height, :width] = resample(cut, width, height, interpolation)
    return factor


def drawn_window(size: tuple[int, int], objects: Sequence[Box], draws: np.random.Generator, least: float) -> Window:
    """A crop of at least a share of an image's area that cuts no object below half; the whole where none is found."""
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
    """Whether a window shows nothing of a box, or at least half; of crowds any part is as good."""
    cut = inside(box, window)
    if cut is None or box.crowd:
        return True
    return (cut[2] - cut[0]) * (cut[3] - cut[1]) >= HALF * box.width * box.height


def inside(box: Box, window: Window) -> Corners | None:
    """Corners of what a window shows of a box, from the window's upper left; None where it shows nothing."""
    left, top = max(box.x, window.left) - window.left, max(box.y, window.top) - window.top
    right = min(box.x + box.width, window.right) - window.left
    bottom = min(box.y + box.height, window.bottom) - window.top
    return (left, top, right, bottom) if right > left and bottom > top else None


def merged(
    corners: Sequence[Corners], labels: Sequence[int], size: int
) -> tuple[list[tuple[float, float, float, float]], list[list[int]]]:
    """Objects, boxes that lie on one another as one with several names: centres and sizes in shares, and classes."""
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
