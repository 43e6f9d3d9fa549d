"""Sizes at which dense features of whole images are taken, and pictures of their three principal components."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

OUTLIERS = 1.0
"""Percent of the patches that are clipped at each end of a component: a few outliers would dull all others."""


def scaled_to_patches(width: int, height: int, size: int, patch: int) -> tuple[int, int]:
    """(width, height) with the shorter side scaled to `size`; each is a multiple of the patch (the nearest), at least
    one.

    >>> scaled_to_patches(640, 427, 224, 16), scaled_to_patches(100, 300, 32, 16)
    ((336, 224), (32, 96))
    """
    factor = size / min(width, height) / patch
    return patch * max(1, round(width * factor)), patch * max(1, round(height * factor))


def principal_components(maps: Sequence[Tensor], count: int = 3) -> list[NDArray[np.float64]]:
    """Coordinates [h, w, count] of features [h, w, D] on the first principal components of all maps together.

    The sign of a component makes its largest weight positive, so the same features give the same colours. Missing
    components (D < count) are zero.
    """
    patches = np.concatenate([one.reshape(-1, one.shape[-1]).double().numpy() for one in maps])
    mean = patches.mean(axis=0)
    # The covariance is D x D, however many the patches are.
    _, vectors = np.linalg.eigh((patches - mean).T @ (patches - mean))
    axes = vectors[:, ::-1][:, :count]
    axes = axes * np.where(axes[np.abs(axes).argmax(axis=0), np.arange(axes.shape[1])] < 0, -1, 1)
    found = [(one.double().numpy() - mean) @ axes for one in maps]
    return [np.pad(one, ((0, 0), (0, 0), (0, count - axes.shape[1]))) for one in found]


def component_pictures(maps: Sequence[Tensor], sizes: Sequence[tuple[int, int]]) -> list[Image.Image]:
    """Pictures of (width, height) whose red, green and blue are the first three principal components of all maps.

    Each component is stretched to 0..255 over the patches of all pictures, so their colours can be compared.
    """
    if not maps:
        return []
    coordinates = principal_components(maps)
    everywhere = np.concatenate([one.reshape(-1, 3) for one in coordinates])
    low, high = np.percentile(everywhere, (OUTLIERS, 100 - OUTLIERS), axis=0)
    spread = np.where(high - low > 1e-9 * max(1.0, float(np.abs(everywhere).max())), high - low, np.inf)
    pictures = []
    for one, size in zip(coordinates, sizes, strict=True):
        shares = np.where(np.isinf(spread), 0.5, (one - low) / spread).clip(0, 1)
        pixels = Image.fromarray((255 * shares).round().astype(np.uint8))
        pictures.append(pixels.resize(size, Image.Resampling.BICUBIC))
    return pictures
