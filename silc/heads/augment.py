"""Random augmentation of an image and its label map, as in the mapper of MaskFormer and CAT-Seg (detectron2).

The shorter side is scaled to the crop size, a random crop is cut out, its colours are changed as in SSD, and half of
the crops are flipped. If the crop is larger than the image, grey pixels with the ignore label fill it.

Differences from detectron2: it scales a label map with torch's `nearest`, whose pixel centres are half a pixel away
from those of the scaled image; here both have the same centres. Hue has 180 values in OpenCV and 256 in Pillow.
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
"""Longest allowed longer side, in crop sizes: detectron2 has 2560 pixels for a crop of 384."""
BRIGHTNESS, CONTRAST, SATURATION, HUE = 32, (0.5, 1.5), (0.5, 1.5), 0.1
"""SSD's ranges: brightness is added, contrast and saturation are factors, hue is a part of the circle, + or -."""


class Example(NamedTuple):
    """A crop of an image and of its label map."""

    pixels: Tensor  # uint8 [3, S, S]
    truth: Tensor  # int32 [S, S]


def augmented(
    image: Image.Image, truth: NDArray[np.int64], side: int, ignore: int, draws: np.random.Generator, *, colours: bool
) -> Example:
    """Return a random crop of `side` pixels of an RGB image and its label map [H, W].

    Args:
        ignore: the label of pixels outside the image.
        colours: whether colours are changed; the same random numbers are drawn either way.
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
        draws.random(NUM_DRAWS)  # so the flip is the same with and without colours
    if draws.random() < 0.5:
        pixels, labels = pixels[:, ::-1], labels[:, ::-1]
    below, beside = side - pixels.shape[0], side - pixels.shape[1]
    pixels = np.pad(pixels, ((0, below), (0, beside), (0, 0)), constant_values=PADDING)
    labels = np.pad(labels, ((0, below), (0, beside)), constant_values=ignore)
    return Example(torch.from_numpy(pixels.transpose(2, 0, 1).copy()), torch.from_numpy(labels.astype(np.int32)))


NUM_DRAWS = 9
"""How many random numbers `recoloured` draws."""


def recoloured(pixels: NDArray[np.uint8], draws: np.random.Generator) -> NDArray[np.uint8]:
    """Change brightness, contrast, saturation and hue of pixels uint8 [H, W, 3] as SSD does, each with probability 1/2.

    Contrast is changed before saturation and hue, or after them.
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
            hsv[..., 0] += np.uint8(round((2 * amounts[3] - 1) * HUE * 256) % 256)  # uint8 wraps around, as hue does
        pixels = np.array(Image.fromarray(hsv, "HSV").convert("RGB"))
    if made[1] and contrast_last:
        pixels = _scaled(pixels, _between(CONTRAST, amounts[1]))
    return pixels


def _scaled(values: NDArray[np.uint8], factor: float, added: float = 0.0) -> NDArray[np.uint8]:
    return np.asarray(np.clip(values.astype(np.float32) * factor + added, 0, 255).astype(np.uint8))


def _between(bounds: tuple[float, float], share: float) -> float:
    return bounds[0] + (bounds[1] - bounds[0]) * share


def _nearest(length: int, scaled: int) -> NDArray[np.int64]:
    """For each pixel of an axis scaled from `length` to `scaled`, the index of the original pixel under its centre."""
    return np.minimum(((np.arange(scaled) + 0.5) * length / scaled).astype(np.int64), length - 1)
