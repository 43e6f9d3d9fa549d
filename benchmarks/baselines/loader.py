"""Multi-crop with torchvision's transforms on 8-bit tensors, and with Pillow. One decode serves all views."""

from __future__ import annotations

import io
import math
import random
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from torchvision.io import ImageReadMode, decode_jpeg  # type: ignore[import-untyped]
from torchvision.transforms import InterpolationMode, v2  # type: ignore[import-untyped]

if TYPE_CHECKING:
    from collections.abc import Sequence

    from silc.data.config import CropConfig


def torchvision_decode(data: bytes) -> torch.Tensor:
    """Uint8 [3, H, W] of a JPEG; its channels lie last in memory, which its resize likes best."""
    pixels: torch.Tensor = decode_jpeg(torch.frombuffer(bytearray(data), dtype=torch.uint8), mode=ImageReadMode.RGB)
    return pixels


class TorchvisionCrops:
    """torchvision.transforms.v2 on tensors."""

    def __init__(self, crops: CropConfig, size: int) -> None:
        kinds = [(size, crops.global_area)] * crops.num_global
        kinds += [(crops.local_size, crops.local_area)] * crops.num_local
        self.transforms = [_transform(side, area, crops) for side, area in kinds]

    def __call__(self, data: bytes) -> list[torch.Tensor]:
        """Views uint8 [3, side, side] of a JPEG's bytes."""
        image = torchvision_decode(data)
        return [transform(image) for transform in self.transforms]


def _transform(side: int, area: tuple[float, float], crops: CropConfig) -> v2.Transform:
    return v2.Compose(
        [
            v2.RandomResizedCrop(side, area, crops.aspect, InterpolationMode.BICUBIC, antialias=True),
            v2.RandomHorizontalFlip(0.5 if crops.flip else 0.0),
        ]
    )


class PillowCrops:
    """Pillow alone: boxes read off the decoded image by its resize, without a copy between."""

    def __init__(self, crops: CropConfig, size: int) -> None:
        self.crops, self.size = crops, size

    def __call__(self, data: bytes) -> list[np.ndarray]:
        """Views uint8 [side, side, 3] of a JPEG's bytes."""
        crops = self.crops
        image: Image.Image = Image.open(io.BytesIO(data))
        image.load()
        image = image if image.mode == "RGB" else image.convert("RGB")
        views = [self._view(image, self.size, crops.global_area) for _ in range(crops.num_global)]
        return views + [self._view(image, crops.local_size, crops.local_area) for _ in range(crops.num_local)]

    def _view(self, image: Image.Image, side: int, area: tuple[float, float]) -> np.ndarray:
        box = _box(image.width, image.height, area, self.crops.aspect)
        view = image.resize((side, side), Image.Resampling.BICUBIC, box=box)
        if self.crops.flip and random.random() < 0.5:
            view = view.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return np.asarray(view)


def _box(
    width: int, height: int, area: tuple[float, float], aspect: Sequence[float]
) -> tuple[float, float, float, float]:
    for _ in range(10):
        pixels = width * height * random.uniform(*area)
        ratio = math.exp(random.uniform(math.log(aspect[0]), math.log(aspect[1])))
        w, h = math.sqrt(pixels * ratio), math.sqrt(pixels / ratio)
        if w <= width and h <= height:
            left, top = random.uniform(0, width - w), random.uniform(0, height - h)
            return left, top, min(left + w, width), min(top + h, height)
    return 0, 0, width, height


def sequential_bytes(shards: Sequence[str], num: int) -> int:
    """Read `num` samples with webdataset, in the shards' order and undecoded; the number of bytes."""
    import webdataset  # type: ignore[import-untyped]

    samples = islice(webdataset.WebDataset(list(shards), shardshuffle=False), num)
    return sum(len(data) for sample in samples for data in sample.values())
