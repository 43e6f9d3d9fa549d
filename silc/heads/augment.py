"""What training draws for an image and its label map: MaskFormer's and CAT-Seg's mapper (detectron2).

The shorter side is scaled to the crop, a crop is cut out at random, its colours are changed as SSD changes them, and it
is flipped. Where the crop is larger than the image, grey and ignored pixels fill it.

Where detectron2 differs: it scales a label map by torch's `nearest`, whose centres lie half a pixel beside those of the
scaled image; here both have the same. OpenCV's hues are of 180 parts, Pillow's of 256.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from PIL import Image

from silc.eval.sliding import rescale_size
from silc.preprocess import Region, resample

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

PADDING = 128
"""Value of the pixels around an image that is smaller than the crop."""
LONGEST = 20 / 3
"""Most of the longer side, in crops: detectron2's 2560 pixels at 384."""
BRIGHTNESS, CONTRAST, SATURATION, HUE = 32, (0.5, 1.5), (0.5, 1.5), 0.1
"""SSD's: added; multiplied; multiplied; shares of the circle to either side."""


class Example(NamedTuple):
    """A crop of an image and of its label map."""

    pixels: Tensor  # uint8 [3, S, S]
    truth: Tensor  # int32 [S, S]


def augmented(
    image: Image.Image, truth: NDArray[np.int64], side: int, ignore: int, draws: np.random.Generator, *, colours: bool
) -> Example:
    """A crop of `side` pixels of an RGB image and its truth [H, W].

    Args:
        ignore: the label of what lies outside the image.
        colours: whether colours are changed; draws are the same either way.
    """
    width, height = rescale_size(*image.size, side, int(side * LONGEST))
    top, left = (int(draws.integers(0, max(0, length - side) + 1)) for length in (height, width))
    region = Region(left, top, min(width, left + side), min(height, top + side))
    pixels = resample(image, width, height, "bilinear", region).permute(1, 2, 0).numpy()
    labels = truth[
        np.ix_(
            _nearest(truth.shape[0], height)[region.top : region.bottom],
            _nearest(truth.shape[1], width)[left : region.right],
        )
    ]
    if colours:
        pixels = recoloured(pixels, draws)
    else:
        draws.random(NUM_DRAWS)  # the flip is the same with and without
    if draws.random() < 0.5:
        pixels, labels = pixels[:, ::-1], labels[:, ::-1]
    below, beside = side - pixels.shape[0], side - pixels.shape[1]
    pixels = np.pad(pixels, ((0, below), (0, beside), (0, 0)), constant_values=PADDING)
    labels = np.pad(labels, ((0, below), (0, beside)), constant_values=ignore)
    return Example(torch.from_numpy(pixels.transpose(2, 0, 1).copy()), torch.from_numpy(labels.astype(np.int32)))


NUM_DRAWS = 9
"""Numbers that a change of colours draws."""


def recoloured(pixels: NDArray[np.uint8], draws: np.random.Generator) -> NDArray[np.uint8]:
    """Pixels uint8 [H, W, 3] with SSD's changes of brightness, contrast, saturation and hue, each made half the time.

    Contrast comes before saturation and hue, or behind them.
    """
    made, amounts, contrast_last = draws.random(4) < 0.5, draws.random(4), draws.random() < 0.5
    if made[0]:
        pixels = _scaled(pixels, 1.0, (2 * amounts[0] - 1) * BRIGHTNESS)
    if made[1] and not contrast_last:
        pixels = _scaled(pixels, _between(CONTRAST, amounts[1]))
    if made[2] or made[3]:
        hsv = np.array(Image.fromarray(pixels).convert("HSV"))
        if made[2]:
            hsv[..., 1] = _scaled(hsv[..., 1], _between(SATURATION, amounts[2]))
        if made[3]:
            hsv[..., 0] += np.uint8(round((2 * amounts[3] - 1) * HUE * 256) % 256)  # round the circle, as bytes do
        pixels = np.array(Image.fromarray(hsv, "HSV").convert("RGB"))
    if made[1] and contrast_last:
        pixels = _scaled(pixels, _between(CONTRAST, amounts[1]))
    return pixels


def _scaled(values: NDArray[np.uint8], factor: float, added: float = 0.0) -> NDArray[np.uint8]:
    return np.asarray(np.clip(values.astype(np.float32) * factor + added, 0, 255).astype(np.uint8))


def _between(bounds: tuple[float, float], share: float) -> float:
    return bounds[0] + (bounds[1] - bounds[0]) * share


def _nearest(length: int, scaled: int) -> NDArray[np.int64]:
    """The place on an axis under the centre of each of `scaled` places."""
    return np.minimum(((np.arange(scaled) + 0.5) * length / scaled).astype(np.int64), length - 1)
