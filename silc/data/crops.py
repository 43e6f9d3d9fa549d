"""Views of an image: the whole image, global crops and local crops, each with its own random draw."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from PIL import Image

from silc.batch import Views
from silc.data.streams import stream

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy as np
    from torch import Tensor

    from silc.data.config import CropConfig
    from silc.preprocess import Preprocess

    Crops = tuple[Tensor | None, Tensor | None]

KINDS = ("global", "local")
TRIES = 10
"""Number of random boxes tried before the largest centred box is used."""
DRAWS = 4 * TRIES + 1
"""Random numbers per view: area, aspect and position (2) for each try, and one for mirroring."""


class MultiCrop:
    """Crops as SILC draws them: bicubic, antialiased, mirrored at random."""

    def __init__(self, config: CropConfig, *, size: int, original: bool, preprocess: Preprocess) -> None:
        """`size` is the side R of global views; `original` adds the whole image, resized by `preprocess`."""
        self.config = config
        self.size = size
        self.original = original
        self.preprocess = preprocess

    def __call__(
        self, pixels: np.ndarray, seed: tuple[int, ...], out: Crops | None = None
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Views of an image's pixels, uint8 [H, W, 3]: the original uint8 [3, R, R], globals [G, 3, R, R] and
        locals [L, 3, r, r]; each may be None.

        Args:
            seed: the visit (seed, epoch, index); a view's draw depends only on the visit and the view's number.
            out: tensors from `allocate` to write globals and locals into.
        """
        global_views, local_views = crops = out or self.allocate()
        image = torch.from_numpy(pixels)[None]
        for name, views, area in zip(KINDS, crops, (self.config.global_area, self.config.local_area), strict=True):
            if views is not None:
                self._crop(image, name, seed, views, area)
        original = self.preprocess(Image.fromarray(pixels)) if self.original else None
        return original, global_views, local_views

    def suffices(self, width: int, height: int) -> bool:
        """True if no possible crop of an image of this size would be upscaled."""
        config, size = self.config, (width, height)
        views = (
            (config.num_global, self.size, config.global_area),
            (config.num_local, config.local_size, config.local_area),
        )
        if any(num and min(min_sides(size, area, config.aspect)) < side for num, side, area in views):
            return False
        scaled = self.preprocess.scaled(width, height)
        return not self.original or (scaled[0] <= width and scaled[1] <= height)

    def allocate(self, *batch: int, empty: Callable[..., Tensor] = torch.empty) -> Crops:
        """Uninitialised globals uint8 [G, *batch, 3, R, R] and locals [L, *batch, 3, r, r], channels last in memory."""
        config = self.config

        def views(num: int, side: int) -> Tensor | None:
            return empty((num, *batch, side, side, 3), dtype=torch.uint8).movedim(-1, -3) if num else None

        return views(config.num_global, self.size), views(config.num_local, config.local_size)

    def blank(self, num: int) -> Views:
        """Views of `num` images in the loader's shapes; their values have no meaning."""
        original = torch.zeros(num, 3, self.size, self.size, dtype=torch.uint8) if self.original else None
        return Views(original, *self.allocate(num, empty=torch.zeros))

    def _crop(self, pixels: Tensor, name: str, seed: tuple[int, ...], views: Tensor, area: tuple[float, float]) -> None:
        """Write random crops of pixels [1, H, W, 3] into views [V, 3, r, r]."""
        height, width = pixels.shape[1:3]
        side = views.shape[-1]
        # Each view has its own row of draws, so the number of views does not change them.
        for view, draws in zip(views, stream(name, *seed).random((len(views), DRAWS)).tolist(), strict=True):
            left, top, right, bottom = choose_box(draws, (width, height), area, self.config.aspect)
            crop = pixels[:, top:bottom, left:right].permute(0, 3, 1, 2)
            # On 8-bit values in channels-last memory this is several times faster than Pillow, or than on planes.
            resized = F.interpolate(crop, (side, side), mode="bicubic", antialias=True)[0]
            view.copy_(resized.flip(-1) if self.config.flip and draws[-1] < 0.5 else resized)


def choose_box(
    draws: Sequence[float], size: tuple[int, int], area: tuple[float, float], aspect: tuple[float, float]
) -> tuple[int, int, int, int]:
    """Random box (left, top, right, bottom) in an image of (width, height), in whole pixels.

    The fraction of the area is uniform, the aspect log-uniform, the position uniform (torchvision's RandomResizedCrop).
    If none of `TRIES` boxes fits, the result is the largest centred box of an allowed aspect.

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
    w, h = _largest_sides(size, aspect)
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h


def min_sides(size: tuple[int, int], area: tuple[float, float], aspect: tuple[float, float]) -> tuple[int, int]:
    """Minimum (width, height) of the boxes that `choose_box` can return."""
    pixels = size[0] * size[1] * area[0]
    w, h = _largest_sides(size, aspect)
    return min(w, round(math.sqrt(pixels * aspect[0]))), min(h, round(math.sqrt(pixels / aspect[1])))


def _largest_sides(size: tuple[int, int], aspect: tuple[float, float]) -> tuple[int, int]:
    width, height = size
    return max(1, min(width, round(height * aspect[1]))), max(1, min(height, round(width / aspect[0])))
