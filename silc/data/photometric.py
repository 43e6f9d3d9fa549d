"""Colour jitter, grey, blur and solarisation of a view, as DINO draws them (arXiv 2104.14294, its appendix and
`DataAugmentationDINO`). SILC does without; captions name colours.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

from silc.data.streams import stream

if TYPE_CHECKING:
    from silc.data.config import PhotometricConfig

SOLARISE_FROM = 128
"""Values from here on are inverted."""


def photometric(view: Image.Image, config: PhotometricConfig, name: str, turn: tuple[int, ...]) -> Image.Image:
    """One RGB view, changed as its draw says.

    Args:
        name: "global" or "local"; globals of even and odd number differ in blur and solarisation.
        turn: (seed, epoch, index, view).
    """
    rng = stream(f"photometric-{name}", *turn)
    # Everything is drawn, wanted or not: another probability changes no other draw.
    jitter, grey, blur, solarise = rng.random(4).tolist()
    radius = rng.uniform(*config.blur_radius)
    order = rng.permutation(4)
    amounts = rng.uniform(-1, 1, 4) * config.jitter
    kind = 2 if name == "local" else turn[-1] % 2
    if jitter < config.jitter_prob:
        for which in order.tolist():
            view = _jittered(view, which, float(amounts[which]))
    if grey < config.grey_prob:
        view = view.convert("L").convert("RGB")
    if blur < config.blur_prob[kind]:
        view = view.filter(ImageFilter.GaussianBlur(radius))
    if solarise < config.solarise_prob[kind]:
        view = ImageOps.solarize(view, SOLARISE_FROM)
    return view


def _jittered(view: Image.Image, which: int, amount: float) -> Image.Image:
    """Brightness, contrast or saturation times 1 + amount, or the hue turned by that share of the circle."""
    if which == 3:
        hue, saturation, value = view.convert("HSV").split()
        turned = np.asarray(hue) + np.int16(amount * 255)
        return Image.merge("HSV", (Image.fromarray(turned.astype(np.uint8)), saturation, value)).convert("RGB")
    enhance = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)[which]
    return enhance(view).enhance(max(0.0, 1 + amount))
