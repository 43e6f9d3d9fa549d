"""Views of an image: the whole, global crops and local crops, each with its own draw."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F

from silc.data.streams import stream

if TYPE_CHECKING:
    from collections.abc import Sequence

    from PIL import Image
    from torch import Tensor

    from silc.data.config import CropConfig
    from silc.preprocess import Preprocess

TRIES = 10
"""Boxes that are drawn before the largest centred one is taken."""
DRAWS = 4 * TRIES + 1
"""Numbers drawn for a view: area, aspect and place of each try, and whether it is mirrored."""


class MultiCrop:
    """Crops as SILC draws them: bicubic, antialiased, mirrored at random."""

    def __init__(self, config: CropConfig, *, size: int, original: bool, preprocess: Preprocess) -> None:
        """`size` is the side R of global views; `original` adds the whole image as `preprocess` gives it."""
        self.config = config
        self.size = size
        self.original = original
        self.preprocess = preprocess

    def __call__(self, image: Image.Image, seed: tuple[int, ...]) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Views of one RGB image: original uint8 [3, R, R], globals [G, 3, R, R], locals [L, 3, r, r] or None each.

        `seed` says whose visit it is, (seed, epoch, index); a view's draw depends on it and the view's number alone.
        Crops lie in memory with their channels last.
        """
        config = self.config
        pixels = torch.from_numpy(np.array(image))[None]
        return (
            self.preprocess(image) if self.original else None,
            self._crops(pixels, "global", seed, config.num_global, self.size, config.global_area),
            self._crops(pixels, "local", seed, config.num_local, config.local_size, config.local_area),
        )

    def _crops(
        self,
        pixels: Tensor,  # [1, H, W, 3]
        name: str,
        seed: tuple[int, ...],
        num_views: int,
        side: int,
        area: tuple[float, float],
    ) -> Tensor | None:
        if not num_views:
            return None
        height, width = pixels.shape[1:3]
        views = []
        # A view has its own row, so the number of views changes no draw.
        for draws in stream(name, *seed).random((num_views, DRAWS)).tolist():
            left, top, right, bottom = choose_box(draws, (width, height), area, self.config.aspect)
            crop = pixels[:, top:bottom, left:right].permute(0, 3, 1, 2)
            # On 8-bit values with their channels last this is several times faster than Pillow and on planes.
            view = F.interpolate(crop, (side, side), mode="bicubic", antialias=True)
            views.append(view.flip(-1) if self.config.flip and draws[-1] < 0.5 else view)
        return torch.cat(views)


def choose_box(
    draws: Sequence[float], size: tuple[int, int], area: tuple[float, float], aspect: tuple[float, float]
) -> tuple[int, int, int, int]:
    """Random box (left, top, right, bottom) in an image of (width, height), in whole pixels.

    Its share of the area is uniform, its aspect log-uniform, its place uniform (torchvision's RandomResizedCrop).
    Where none of `TRIES` boxes fits: the largest centred box of an allowed aspect.

    Args:
        draws: at least 4 * TRIES numbers, uniform in [0, 1).
    """
    width, height = size
    low, high = math.log(aspect[0]), math.log(aspect[1])
    for first in range(0, 4 * TRIES, 4):
        share, shape, across, down = draws[first : first + 4]
        pixels = width * height * (area[0] + (area[1] - area[0]) * share)
        ratio = math.exp(low + (high - low) * shape)
        w, h = round(math.sqrt(pixels * ratio)), round(math.sqrt(pixels / ratio))
        if 0 < w <= width and 0 < h <= height:
            left, top = int(across * (width - w + 1)), int(down * (height - h + 1))
            return left, top, left + w, top + h
    w = max(1, min(width, round(height * aspect[1])))
    h = max(1, min(height, round(width / aspect[0])))
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h
