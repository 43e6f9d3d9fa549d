"""Colour jitter, grey, blur and solarisation of views, as DINO draws and does them (arXiv 2104.14294,
`main_dino.py:DataAugmentationDINO`): torchvision's functions on Pillow images, and Pillow's blur.

It loads torchvision: import it only where colours are changed.
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
"""Values from here on are inverted."""
DRAWS = 13
"""Numbers drawn for a view: whether each of the four changes is made, four amounts, their order, the blur's radius."""


def recolour(config: PhotometricConfig, name: str, visit: Sequence[int], views: Tensor) -> None:
    """Change the colours of an image's views uint8 [V, 3, r, r] in place; a view's depend on `visit` and its number.

    Args:
        name: "global" or "local"; globals of even and odd number differ in blur and solarisation.
        visit: (seed, epoch, index).
    """
    draws = stream(f"photometric-{name}", *visit).random((len(views), DRAWS))
    for number, view in enumerate(views):
        image = Image.fromarray(view.permute(1, 2, 0).numpy())
        for change, amount in changes(config, number % 2 if name == "global" else 2, draws[number]):
            image = change(image, amount)
        view.copy_(torch.from_numpy(np.array(image)).permute(2, 0, 1))


def changes(config: PhotometricConfig, kind: int, draws: np.ndarray) -> list[Change]:
    """What is done to a view, and how much of it, in its order.

    Args:
        kind: 0 and 1 for global views of even and odd number, 2 for local ones.
        draws: DRAWS numbers, uniform in [0, 1). All are drawn, wanted or not: no probability changes another's draw.
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
    """As DINO blurs. torchvision's takes a kernel's size as well, no radius of 0, and no image smaller than half the
    kernel.
    """
    return image.filter(ImageFilter.GaussianBlur(radius))
