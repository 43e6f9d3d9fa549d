"""Preprocessing of images for a model: size, resize rule, mean and std. One definition for training, evaluation and
export.

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

Memory does not depend on an image's shape: if the scaled image would be large, only the region that is kept is
computed, tile by tile. Its values are those of the whole scaled image, except for rounding in the last of 8 bits.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

Resize = Literal["squash", "squash_crop", "crop", "crop_floor"]
Interpolation = Literal["bilinear", "bicubic", "tf_bilinear", "cv2_bilinear"]
FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
REACH = {"bilinear": 1, "bicubic": 2}
"""How far these filters look to either side, in pixels of the coarser grid."""
AT_ONCE = 2**24
"""Most pixels that a resize makes at a time, including those between its two passes."""


class Region(NamedTuple):
    """Pixels [left, right) x [top, bottom) of an image."""

    left: int
    top: int
    right: int
    bottom: int


def to_uint8(image: Image.Image) -> Tensor:
    """Pixels uint8 [3, H, W] of an RGB image."""
    return torch.from_numpy(np.array(image, dtype=np.uint8)).permute(2, 0, 1).contiguous()


def resample(
    image: Image.Image, width: int, height: int, interpolation: Interpolation, region: Region | None = None
) -> Tensor:
    """Resize an RGB image to pixels uint8 [3, height, width], or make only a `region` of them, [3, h, w]."""
    left, top, right, bottom = region = region or Region(0, 0, width, height)
    between = width if interpolation in FILTERS else image.width
    if max(width * height, between * image.height) <= AT_ONCE:
        return _resized(image, width, height, interpolation)[:, top:bottom, left:right]
    pixels = torch.empty(3, bottom - top, right - left, dtype=torch.uint8)
    for tile in _tiles(region, image.width / width, image.height / height):
        place = pixels[:, tile.top - top : tile.bottom - top, tile.left - left : tile.right - left]
        place.copy_(_tile(image, width, height, interpolation, tile))
    return pixels


class Neighbours(NamedTuple):
    """For each of N places on one axis: the two places around it on an axis of another length."""

    before: Tensor  # int64 [N]
    after: Tensor  # int64 [N]
    share: Tensor  # float32 [N], weight of `after`

    def moved(self, offset: int) -> Neighbours:
        """The same on an axis that begins `offset` places later."""
        return Neighbours(self.before - offset, self.after - offset, self.share)


def neighbours(length: int, scaled: int, places: Tensor) -> Neighbours:
    """Where places int64 [N] of an axis of length `scaled` lie on one of length `length`, as in `F.interpolate`."""
    # Its scale is a float32; product and sum are rounded once (a fused multiply-add).
    scale = float(np.float32(length) / np.float32(scaled))
    where = ((places.double() + 0.5) * scale - 0.5).float().clamp(min=0)
    before = where.long().clamp(max=length - 1)
    return Neighbours(before, (before + 1).clamp(max=length - 1), where - before)


def bilinear(x: Tensor, rows: Neighbours, columns: Neighbours) -> Tensor:
    """Rows and columns [..., R, C] of x [..., H, W], interpolated as by `F.interpolate` without antialias."""
    first, last = int(rows.before.min()), int(rows.after.max())
    x, rows, share = x[..., first : last + 1, :], rows.moved(first), columns.share
    x = x.index_select(-1, columns.before) * (1 - share) + x.index_select(-1, columns.after) * share
    share = rows.share[:, None]
    return x.index_select(-2, rows.before) * (1 - share) + x.index_select(-2, rows.after) * share


def _resized(image: Image.Image, width: int, height: int, interpolation: Interpolation) -> Tensor:
    if interpolation in FILTERS:
        return to_uint8(image.resize((width, height), FILTERS[interpolation]))
    values = F.interpolate(to_uint8(image)[None].float(), (height, width), mode="bilinear", align_corners=False)[0]
    return (values.round() if interpolation == "cv2_bilinear" else values).to(torch.uint8)


def _tiles(region: Region, across: float, down: float) -> Iterator[Region]:
    """Split a region into tiles; each of its pixels covers `across` x `down` of the image's."""
    columns, rows = region.right - region.left, region.bottom - region.top
    across, down = max(1.0, across), max(1.0, down)
    # A filter looks at most two pixels, of the coarser grid, beyond a tile.
    while rows * columns > 1 and (rows + 4) * down * (columns + 4) * across > AT_ONCE:
        if columns == 1 or (rows > 1 and rows * down > columns * across):
            rows = -(-rows // 2)
        else:
            columns = -(-columns // 2)
    for top in range(region.top, region.bottom, rows):
        for left in range(region.left, region.right, columns):
            yield Region(left, top, min(left + columns, region.right), min(top + rows, region.bottom))


def _tile(image: Image.Image, width: int, height: int, interpolation: Interpolation, tile: Region) -> Tensor:
    """A tile of the image scaled to (width, height), computed only from the pixels that it needs."""
    if interpolation not in FILTERS:
        rows = neighbours(image.height, height, torch.arange(tile.top, tile.bottom))
        columns = neighbours(image.width, width, torch.arange(tile.left, tile.right))
        left, top = int(columns.before[0]), int(rows.before[0])
        seen = image.crop((left, top, int(columns.after[-1]) + 1, int(rows.after[-1]) + 1))
        values = bilinear(to_uint8(seen), rows.moved(top), columns.moved(left))
        return values.round() if interpolation == "cv2_bilinear" else values
    across, down = image.width / width, image.height / height
    left, right = _seen(tile.left * across, tile.right * across, REACH[interpolation] * max(1.0, across), image.width)
    top, bottom = _seen(tile.top * down, tile.bottom * down, REACH[interpolation] * max(1.0, down), image.height)
    box = (
        max(0.0, tile.left * across - left),
        max(0.0, tile.top * down - top),
        min(right - left, tile.right * across - left),
        min(bottom - top, tile.bottom * down - top),
    )
    size = tile.right - tile.left, tile.bottom - tile.top
    return to_uint8(image.crop((left, top, right, bottom)).resize(size, FILTERS[interpolation], box))


def _seen(start: float, stop: float, reach: float, length: int) -> tuple[int, int]:
    """The range of whole pixels from start to stop and `reach` beyond both, within an axis of this length."""
    return max(0, math.floor(start - reach) - 1), min(length, math.ceil(stop + reach) + 1)


@dataclass(frozen=True)
class Preprocess:
    """The preprocessing of one model."""

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
        region = Region(left, top, left + self.size, top + self.size)
        return resample(image, width, height, self.interpolation, region)

    def scaled(self, width: int, height: int) -> tuple[int, int]:
        """(width, height) to which an image of this size is scaled before the centre is cut out."""
        match self.resize:
            case "squash":
                return self.size, self.size
            case "squash_crop":
                return int(self.size / 0.875), int(self.size / 0.875)
            case "crop" | "crop_floor":
                shorter = min(width, height)
                return self.size * width // shorter, self.size * height // shorter

    def renormalize(self, images: Tensor, theirs: Preprocess) -> Tensor:
        """Convert float32 images [..., 3, H, W] from another model's normalisation to this one's."""
        mean, std, own_mean, own_std = (
            torch.tensor(one, device=images.device).view(3, 1, 1)
            for one in (theirs.mean, theirs.std, self.mean, self.std)
        )
        return (images * std + mean - own_mean) / own_std

    def normalize(self, pixels: Tensor) -> Tensor:
        """Float32 (x/255 - mean)/std of uint8 pixels [..., 3, H, W], on the tensor's own device."""
        mean = torch.tensor(self.mean, device=pixels.device).view(3, 1, 1)
        std = torch.tensor(self.std, device=pixels.device).view(3, 1, 1)
        # Crops have their channels last. Copied, because the next operations are in place.
        floats = pixels.to(torch.float32, memory_format=torch.contiguous_format, copy=True)
        return floats.div_(255).sub_(mean).div_(std)
