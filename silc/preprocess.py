"""What a model expects of its pixels: size, resize rule, mean and std. One definition for training,
evaluation and export.

`resize="squash"` ignores the aspect ratio (big_vision's protocols); `"crop"` scales the shorter side and takes
the centre (CLIP's). Filters are Pillow's, antialiased, on 8-bit values.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from PIL import Image

if TYPE_CHECKING:
    from torch import Tensor

FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


def to_uint8(image: Image.Image) -> Tensor:
    """Pixels uint8 [3, H, W] of an RGB image."""
    return torch.from_numpy(np.array(image, dtype=np.uint8)).permute(2, 0, 1).contiguous()


@dataclass(frozen=True)
class Preprocess:
    """Pixels as one model wants them."""

    size: int
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)
    resize: Literal["squash", "crop"] = "squash"
    interpolation: Literal["bilinear", "bicubic"] = "bicubic"

    def __call__(self, image: Image.Image) -> Tensor:
        """The whole RGB image as uint8 [3, size, size]."""
        width, height = image.size
        if self.resize == "squash":
            box = (0.0, 0.0, float(width), float(height))
        else:
            side = min(width, height)
            left, top = (width - side) / 2, (height - side) / 2
            box = (left, top, left + side, top + side)
        return to_uint8(image.resize((self.size, self.size), FILTERS[self.interpolation], box=box))

    def normalize(self, pixels: Tensor) -> Tensor:
        """Float32 (x/255 - mean)/std of uint8 pixels [..., 3, H, W], on the tensor's own device."""
        mean = torch.tensor(self.mean, device=pixels.device).view(3, 1, 1)
        std = torch.tensor(self.std, device=pixels.device).view(3, 1, 1)
        return (pixels.float() / 255 - mean) / std
