"""What a model expects of its pixels: size, resize rule, mean and std. One definition for training,
evaluation and export.

| resize        | geometry                                              | whose                       |
| ------------- | ----------------------------------------------------- | --------------------------- |
| `squash`      | the whole image, aspect ratio lost                    | big_vision's retrieval      |
| `squash_crop` | squashed to int(size / 0.875), the centre cut out     | big_vision's classification |
| `crop`        | shorter side to size, aspect kept, the centre cut out | CLIP's and torchvision's    |
| `crop_floor`  | the same, odd margins rounded down                    | transformers' CLIP          |

| interpolation  | filter, on 8-bit values                                                                      |
| -------------- | -------------------------------------------------------------------------------------------- |
| `bilinear`     | Pillow's, antialiased                                                                        |
| `bicubic`      | Pillow's, antialiased                                                                        |
| `tf_bilinear`  | tf.image.resize without antialias, then cut to integers: big_vision's `resize`               |
| `cv2_bilinear` | cv2.INTER_LINEAR, not antialiased either, but rounded (cv2 itself computes in fixed point)   |
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

if TYPE_CHECKING:
    from torch import Tensor

Resize = Literal["squash", "squash_crop", "crop", "crop_floor"]
Interpolation = Literal["bilinear", "bicubic", "tf_bilinear", "cv2_bilinear"]
FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


def to_uint8(image: Image.Image) -> Tensor:
    """Pixels uint8 [3, H, W] of an RGB image."""
    return torch.from_numpy(np.array(image, dtype=np.uint8)).permute(2, 0, 1).contiguous()


def resample(image: Image.Image, width: int, height: int, interpolation: Interpolation) -> Tensor:
    """Pixels uint8 [3, height, width] of an RGB image."""
    if interpolation in FILTERS:
        return to_uint8(image.resize((width, height), FILTERS[interpolation]))
    values = F.interpolate(to_uint8(image)[None].float(), (height, width), mode="bilinear", align_corners=False)[0]
    return (values.round() if interpolation == "cv2_bilinear" else values).to(torch.uint8)


@dataclass(frozen=True)
class Preprocess:
    """Pixels as one model wants them."""

    size: int
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)
    resize: Resize = "squash"
    interpolation: Interpolation = "bicubic"

    def __call__(self, image: Image.Image) -> Tensor:
        """An RGB image as uint8 [3, size, size]."""
        width, height = self.scaled(*image.size)
        # torchvision rounds the margin (half to even), the others cut it.
        margin = (lambda rest: round(rest / 2)) if self.resize == "crop" else (lambda rest: rest // 2)
        top, left = margin(height - self.size), margin(width - self.size)
        pixels = resample(image, width, height, self.interpolation)
        return pixels[:, top : top + self.size, left : left + self.size]

    def scaled(self, width: int, height: int) -> tuple[int, int]:
        """(width, height) an image of this size is brought to before the centre is cut out."""
        match self.resize:
            case "squash":
                return self.size, self.size
            case "squash_crop":
                return int(self.size / 0.875), int(self.size / 0.875)
            case "crop" | "crop_floor":
                shorter = min(width, height)
                return self.size * width // shorter, self.size * height // shorter

    def normalize(self, pixels: Tensor) -> Tensor:
        """Float32 (x/255 - mean)/std of uint8 pixels [..., 3, H, W], on the tensor's own device."""
        mean = torch.tensor(self.mean, device=pixels.device).view(3, 1, 1)
        std = torch.tensor(self.std, device=pixels.device).view(3, 1, 1)
        # Crops come with their channels last. Copied, for what follows is in place.
        floats = pixels.to(torch.float32, memory_format=torch.contiguous_format, copy=True)
        return floats.div_(255).sub_(mean).div_(std)
