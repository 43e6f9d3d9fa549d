"""Views of an image: the whole, global crops and local crops, each with its own draw."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image

from silc.data.photometric import photometric
from silc.data.streams import stream

if TYPE_CHECKING:
    from torch import Tensor

    from silc.data.config import CropConfig, PhotometricConfig
    from silc.preprocess import Preprocess


class MultiCrop:
    """Crops as SILC draws them: bicubic, antialiased, mirrored at random; photometric changes where asked for."""

    def __init__(
        self,
        config: CropConfig,
        *,
        size: int,
        original: bool,
        preprocess: Preprocess,
        photometric: PhotometricConfig | None = None,
    ) -> None:
        """`size` is the side R of global views; `original` adds the whole image as `preprocess` gives it."""
        self.config = config
        self.size = size
        self.original = original
        self.preprocess = preprocess
        self.photometric = photometric if photometric and photometric.on else None

    def __call__(self, image: Image.Image, seed: tuple[int, ...]) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Views of one RGB image: original uint8 [3, R, R], globals [G, 3, R, R], locals [L, 3, r, r] or None each.

        `seed` says whose visit it is, (seed, epoch, index); a view's draw depends on it and the view's number alone.
        """
        config = self.config
        return (
            self.preprocess(image) if self.original else None,
            self._crops(image, "global", seed, config.num_global, self.size, config.global_area),
            self._crops(image, "local", seed, config.num_local, config.local_size, config.local_area),
        )

    def _crops(
        self,
        image: Image.Image,
        name: str,
        seed: tuple[int, ...],
        num_views: int,
        side: int,
        area: tuple[float, float],
    ) -> Tensor | None:
        if not num_views:
            return None
        pixels = np.empty((num_views, side, side, 3), dtype=np.uint8)
        for view in range(num_views):
            rng = stream(name, *seed, view)
            box = draw_box(rng, image.size, area, self.config.aspect)
            crop = image.resize((side, side), Image.Resampling.BICUBIC, box=box)
            if rng.random() < 0.5 and self.config.flip:
                crop = crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
            if self.photometric:
                crop = photometric(crop, self.photometric, name, (*seed, view))
            pixels[view] = np.asarray(crop)
        return torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()


def draw_box(
    rng: np.random.Generator, size: tuple[int, int], area: tuple[float, float], aspect: tuple[float, float]
) -> tuple[float, float, float, float]:
    """Random box (left, top, right, bottom) in an image of (width, height), in pixels, not rounded.

    Its share of the area is uniform, its aspect log-uniform, its place uniform (torchvision's RandomResizedCrop).
    After ten draws that do not fit: the largest centred box of an allowed aspect.
    """
    width, height = size
    log_aspect = math.log(aspect[0]), math.log(aspect[1])
    for _ in range(10):
        pixels = width * height * rng.uniform(*area)
        ratio = math.exp(rng.uniform(*log_aspect))
        w, h = math.sqrt(pixels * ratio), math.sqrt(pixels / ratio)
        if w <= width and h <= height:
            left, top = rng.uniform(0, width - w), rng.uniform(0, height - h)
            return left, top, min(left + w, width), min(top + h, height)
    w, h = min(width, height * aspect[1]), min(height, width / aspect[0])
    left, top = (width - w) / 2, (height - h) / 2
    return left, top, left + w, top + h
