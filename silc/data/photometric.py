"""Colour jitter, grey, blur and solarisation of views, as DINO draws them (arXiv 2104.14294, its appendix and
`DataAugmentationDINO`). SILC does without; captions name colours.

What is done to a view is drawn first, and done later to any number of views at once, on any device. The values are
Pillow's: 8-bit steps in the jitter, exactly so but for a hue in some ten thousand; the blur's three boxes in one pass.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F

from silc.data.streams import stream

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    from silc.data.config import PhotometricConfig

    Change = Callable[[Tensor, np.ndarray], Tensor]

SOLARISE_FROM = 128
"""Values from here on are inverted."""
DRAWN = np.dtype(
    [
        ("order", "i1", 4),  # numbers of JITTERS, the first done first; -1 where the view is not jittered
        ("amounts", "f4", 4),  # factor of brightness, contrast and saturation, 1/256 turns of the hue
        ("grey", "?"),
        ("blur", "f4"),  # standard deviation in pixels, 0 for none
        ("solarise", "?"),
    ],
    align=True,
)
"""What is done to one view."""


def draw(config: PhotometricConfig, name: str, turns: Sequence[tuple[int, ...]], num_views: int) -> np.ndarray:
    """DRAWN [V, B] for the views of some visits; a view's depends on its visit and its number alone.

    Args:
        name: "global" or "local"; globals of even and odd number differ in blur and solarisation.
        turns: B times (seed, epoch, index).
        num_views: V.
    """
    # Everything is drawn, wanted or not: another probability changes no other draw.
    uniform = np.stack([stream(f"photometric-{name}", *turn).random((num_views, 13)) for turn in turns], axis=1)
    jitter, grey, blur, solarise = np.moveaxis(uniform[..., :4], -1, 0)
    amounts = (2 * uniform[..., 4:8] - 1) * config.jitter
    kind = (np.arange(num_views) % 2 if name == "global" else np.full(num_views, 2))[:, None]
    low, high = config.blur_radius
    drawn = np.empty(uniform.shape[:2], DRAWN)
    drawn["order"] = np.where((jitter < config.jitter_prob)[..., None], uniform[..., 8:12].argsort(axis=-1), -1)
    drawn["amounts"][..., :3] = np.maximum(0, 1 + amounts[..., :3])
    drawn["amounts"][..., 3] = np.trunc(255 * amounts[..., 3])
    drawn["grey"] = grey < config.grey_prob
    drawn["blur"] = np.where(blur < np.take(config.blur_prob, kind), low + (high - low) * uniform[..., 12], 0)
    drawn["solarise"] = solarise < np.take(config.solarise_prob, kind)
    return drawn


def recolour(views: Tensor, drawn: np.ndarray) -> Tensor:
    """Views uint8 [V, B, 3, H, W], changed as DRAWN [V, B] says, on their device, which is not waited for.

    An accelerator changes all at once. A processor one after the other, each of which stays in its cache.
    """
    flat = views.flatten(0, 1)
    size = 1 if views.device.type == "cpu" else len(flat)
    parts = zip(flat.split(size), np.split(drawn.reshape(-1), range(size, len(flat), size)), strict=True)
    return torch.cat([_recoloured(*part) for part in parts]).reshape(*drawn.shape, *views.shape[2:])


def _recoloured(views: Tensor, drawn: np.ndarray) -> Tensor:
    pixels = views.to(torch.float32, memory_format=torch.contiguous_format)
    for place in range(4):
        now = drawn["order"][:, place]
        for which in set(now.tolist()) - {-1}:
            pixels = _changed(pixels, now == which, JITTERS[which], drawn["amounts"][:, which])
    pixels = _changed(pixels, drawn["grey"], _greyed, drawn["grey"])
    pixels = _changed(pixels, drawn["blur"] > 0, _blurred, drawn["blur"])
    pixels = _changed(pixels, drawn["solarise"], _solarised, drawn["solarise"])
    # Through 16 bits: to 8 at once takes three times as long on a processor.
    return pixels.to(torch.int16).to(torch.uint8)


def _changed(pixels: Tensor, chosen: np.ndarray, change: Change, amounts: np.ndarray) -> Tensor:
    """`change` the chosen ones of pixels [N, 3, H, W] by their amounts [N]."""
    if not chosen.any():
        return pixels
    if chosen.all():
        return change(pixels, amounts)
    rows = torch.from_numpy(np.flatnonzero(chosen)).to(pixels.device, non_blocking=True)
    return pixels.index_copy(0, rows, change(pixels[rows], amounts[chosen]))


# Each takes float [N, 3, H, W] of whole numbers from 0 to 255 and one amount a view, and gives such pixels back. In
# place where it may: in the loader's processes memory is what takes the time.


def _brightness(pixels: Tensor, factors: np.ndarray) -> Tensor:
    return (pixels * _per_view(factors, pixels)).clamp_(0, 255).floor_()


def _contrast(pixels: Tensor, factors: np.ndarray) -> Tensor:
    # Sums of whole numbers, so that they are the same in any order.
    total = _grey(pixels).sum(-1, keepdim=True).long().sum(-2, keepdim=True)
    mean = (total / (pixels.shape[-1] * pixels.shape[-2]) + 0.5).floor()
    return _away_from(mean, pixels, factors)


def _saturation(pixels: Tensor, factors: np.ndarray) -> Tensor:
    return _away_from(_grey(pixels), pixels, factors)


def _away_from(origin: Tensor, pixels: Tensor, factors: np.ndarray) -> Tensor:
    """origin + factor * (pixels - origin), as Pillow's `blend` cuts and rounds it."""
    return (pixels - origin).mul_(_per_view(factors, pixels)).add_(origin).clamp_(0, 255).floor_()


def _hue(pixels: Tensor, steps: np.ndarray) -> Tensor:
    """Turn the hue, in Pillow's 8-bit HSV (colorsys')."""
    red, green, blue = pixels.unbind(1)
    value = torch.maximum(torch.maximum(red, green), blue)
    chroma = value - torch.minimum(torch.minimum(red, green), blue)
    # 1 where green, blue is the largest, else 0: cheaper than masks.
    in_blue = (blue - torch.maximum(red, green)).clamp_(0, 1)
    in_green = (green - red).clamp_(0, 1).mul_(1 - in_blue)
    to_red, to_green = green - blue, blue - red
    slope = to_red + in_green * (to_green - to_red) - in_blue * (to_green + 2 * to_red)
    hue = slope.div_(chroma.clamp(min=1)).add_(in_green, alpha=2).add_(in_blue, alpha=4).div_(6)
    hue = hue.sub_(hue.floor()).mul_(255).floor_().add_(_per_view(steps, pixels)[:, 0])
    hue.sub_(hue.div(256).floor_().mul_(256)).mul_(6 / 255)  # sixths of the circle
    reach = (chroma.mul_(255) / value.clamp(min=1)).floor_().div_(255).mul_(value)  # from the value down to the least
    turned = torch.empty_like(pixels)
    torch.sub(2, (hue - 3).abs_(), out=turned[:, 0])
    torch.sub((hue - 2).abs_(), 1, out=turned[:, 1])
    torch.sub((hue - 4).abs_(), 1, out=turned[:, 2])
    half_up = value.add_(0.5)[:, None]
    return half_up.addcmul(turned.clamp_(0, 1), reach[:, None], value=-1).floor_()


JITTERS: tuple[Change, ...] = (_brightness, _contrast, _saturation, _hue)


def _grey(pixels: Tensor) -> Tensor:
    """ITU-R 601-2 luma [N, 1, H, W], in Pillow's 16-bit fixed point; its whole numbers fit a float32."""
    red, green, blue = pixels[:, :1], pixels[:, 1:2], pixels[:, 2:]
    return (red * 19595).add_(green, alpha=38470).add_(blue, alpha=7471).add_(32768).div_(65536).floor_()


def _greyed(pixels: Tensor, _: np.ndarray) -> Tensor:
    return _grey(pixels).expand_as(pixels).contiguous()


def _blurred(pixels: Tensor, sigmas: np.ndarray) -> Tensor:
    kernels = [_three_boxes(float(sigma)) for sigma in sigmas]
    reach = max(map(len, kernels)) - 1
    weights = _per_view(np.stack([np.pad(kernel, (0, reach + 1 - len(kernel))) for kernel in kernels], axis=1), pixels)
    for dim, margin in ((3, (reach, reach, 0, 0)), (2, (0, 0, reach, reach))):
        length = pixels.shape[dim]
        padded = F.pad(pixels, margin, mode="replicate")
        blurred = padded.narrow(dim, reach, length) * weights[0]
        for away in range(1, reach + 1):
            for start in (reach - away, reach + away):
                blurred.addcmul_(padded.narrow(dim, start, length), weights[away])
        pixels = blurred
    return pixels.add_(0.5).clamp_(0, 255).floor_()


@lru_cache(maxsize=256)
def _three_boxes(sigma: float) -> np.ndarray:
    """From its middle on, the kernel float32 [T] of Pillow's Gaussian blur: a box thrice, of the same variance in all.

    The box is `whole` pixels to each side and a share of the next (Gwosdek et al., Fast Gaussian Smoothing by Extended
    Box Filtering, 2011).
    """
    variance = sigma * sigma / 3
    whole = math.floor((math.sqrt(12 * variance + 1) - 1) / 2)
    share = (2 * whole + 1) * (whole * (whole + 1) - 3 * variance) / (6 * (variance - (whole + 1) ** 2))
    box = np.array([share, *[1.0] * (2 * whole + 1), share]) / (2 * (whole + share) + 1)
    kernel = np.convolve(np.convolve(box, box), box)
    return kernel[len(kernel) // 2 :].astype(np.float32)


def _solarised(pixels: Tensor, _: np.ndarray) -> Tensor:
    return torch.where(pixels < SOLARISE_FROM, pixels, 255 - pixels)


def _per_view(numbers: np.ndarray, pixels: Tensor) -> Tensor:
    """Numbers [..., N] as a tensor [..., N, 1, 1, 1] beside the pixels."""
    return torch.tensor(numbers).to(pixels.device, non_blocking=True)[..., None, None, None]
