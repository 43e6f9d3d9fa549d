"""Colour jitter, grey, blur and solarisation of views, as in DINO (arXiv 2104.14294,
`main_dino.py:DataAugmentationDINO`): torchvision's functions on Pillow images, and Pillow's blur.

This module imports torchvision, which takes seconds: import it only if colours are changed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image, ImageFilter
from torchvision.transforms.v2 import functional as torchvision  # type: ignore[import-untyped]

from silc.data.streams import stream

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    from silc.data.config import PhotometricConfig

    Change = tuple[Callable[[Image.Image, float], Image.Image], float]

JITTERS = (
    torchvision.adjust_brightness,
    torchvision.adjust_contrast,
    torchvision.adjust_saturation,
    torchvision.adjust_hue,
)
SOLARISE_FROM = 128
"""Values of this and more are inverted."""
DRAWS = 13
"""Random numbers per view: 4 choices (jitter, grey, blur, solarise), 4 jitter amounts, 4 for the order, 1 radius."""


def recolour(config: PhotometricConfig, name: str, visit: Sequence[int], views: Tensor) -> None:
    """Change the colours of an image's views uint8 [V, 3, r, r] in place; draws depend on `visit` and the view's index.

    Args:
        name: "global" or "local"; global views of even and odd number differ in blur and solarisation.
        visit: (seed, epoch, index).
    """
    draws = stream(f"photometric-{name}", *visit).random((len(views), DRAWS))
    for number, view in enumerate(views):
        image = Image.fromarray(view.permute(1, 2, 0).numpy())
        for change, amount in changes(config, number % 2 if name == "global" else 2, draws[number]):
            image = change(image, amount)
        view.copy_(torch.from_numpy(np.array(image)).permute(2, 0, 1))


def changes(config: PhotometricConfig, kind: int, draws: np.ndarray) -> list[Change]:
    """The changes of one view, in order: (function, amount).

    Args:
        kind: 0 for global views of even number, 1 for those of odd number, 2 for local views.
        draws: DRAWS numbers, uniform in [0, 1). All are always drawn, so no probability changes another draw.
    """
    jitter, grey, blur, solarise = draws[:4]
    amounts = (2 * draws[4:8] - 1) * config.jitter
    amounts[:3] = np.maximum(0, 1 + amounts[:3])
    low, high = config.blur_radius
    done: list[Change] = []
    if jitter < config.jitter_prob:
        done += [(JITTERS[which], float(amounts[which])) for which in draws[8:12].argsort()]
    if grey < config.grey_prob:
        done.append((torchvision.rgb_to_grayscale, 3))
    if blur < config.blur_prob[kind]:
        done.append((blurred, low + (high - low) * float(draws[12])))
    if solarise < config.solarise_prob[kind]:
        done.append((torchvision.solarize, SOLARISE_FROM))
    return done


def blurred(image: Image.Image, radius: float) -> Image.Image:
    """Gaussian blur with Pillow, as in DINO. torchvision's blur also needs a kernel size, and accepts neither a radius
    of 0 nor an image smaller than half the kernel.
    """
    return image.filter(ImageFilter.GaussianBlur(radius))
