"""PAMR: class maps refined along an image's edges. No parameters are learnt.

Each round a pixel takes the mean of its neighbours' maps, weighted by the similarity of their colours. The settings
are TCL's (kakaobrain/tcl `models/tcl/pamr.py`, from visinf/1-stage-wseg; Araslanov and Roth, CVPR 2020): 10 rounds over
the 8 neighbours at 6 distances. A result made with PAMR is not raw; records call it refined.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

if TYPE_CHECKING:
    from torch import Tensor

ROUNDS = 10
DILATIONS = (1, 2, 4, 8, 12, 24)


@torch.no_grad()
def refine(maps: Tensor, image: Tensor, rounds: int = ROUNDS, dilations: tuple[int, ...] = DILATIONS) -> Tensor:
    """Refined maps [C, H, W] of maps [C, H, W] and a normalised image [3, H, W].

    Sums over classes are kept, and every value stays between the smallest and largest of its map.
    """
    weights = affinity(image, dilations)
    for _ in range(rounds):
        # Neighbour by neighbour: all at once would take 48 times the maps' memory.
        maps = sum(
            (weight * shifted for weight, shifted in zip(weights, _neighbours(maps, dilations), strict=True)),
            start=torch.zeros_like(maps),
        )
    return maps


def refine_at_their_size(maps: Tensor, image: Tensor) -> Tensor:
    """Refined maps [C, h, w] of maps and an image [3, H, W], which is resized to the maps as in TCL's `apply_pamr`."""
    return refine(maps, F.interpolate(image[None], maps.shape[-2:], mode="bilinear", align_corners=True)[0])


def affinity(image: Tensor, dilations: tuple[int, ...]) -> Tensor:
    """Weights [P, H, W] of the P = 8 * len(dilations) neighbours of each pixel, summing to 1.

    softmax over q of the mean over RGB of -|I_p - I_q| / (1e-8 + 0.1 std), with std over the pixel's 3 x 3
    neighbourhoods at all dilations together.
    """
    around = torch.stack(list(_neighbours(image, dilations)))  # [P, 3, H, W]
    centres = image.expand(len(dilations), *image.shape)  # each neighbourhood holds the pixel itself
    std = torch.cat([around, centres]).std(dim=0, keepdim=True)
    return (-(image - around).abs() / (1e-8 + 0.1 * std)).mean(dim=1).softmax(dim=0)


def _neighbours(x: Tensor, dilations: tuple[int, ...]) -> Iterator[Tensor]:
    """[C, H, W] shifted to each of the 8 neighbours at each distance; edges are repeated."""
    height, width = x.shape[-2:]
    for distance in dilations:
        padded = F.pad(x[None], (distance,) * 4, mode="replicate")[0]
        for row in range(3):
            for column in range(3):
                if (row, column) != (1, 1):
                    top, left = row * distance, column * distance
                    yield padded[:, top : top + height, left : left + width]
