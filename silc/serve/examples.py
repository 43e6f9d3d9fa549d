"""Example pictures, there from the start: generated scenes, which belong to nobody."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from PIL import Image

from silc.data.scenes import COMBINATIONS, SEEN, render
from silc.serve.pictures import name_of

if TYPE_CHECKING:
    import numpy as np

NUM = 3
SMALLEST, LARGEST = 48, 256
"""Pixels of a scene's side: textures are finer than patches, so a scene is drawn as large as the model sees it."""


@dataclass(frozen=True)
class Drawn:
    """A picture, and words that go with it."""

    id: str
    title: str
    image: Image.Image
    names: Sequence[str]


def scenes(size: int) -> list[Drawn]:
    """Scenes for a model of this image size."""
    side = min(max(size, SMALLEST), LARGEST)
    drawn = (render((0, 9, number), size=side, combinations=SEEN, num_regions=(3, 4)) for number in range(NUM))
    return [_drawn(number, scene.pixels, scene.labels) for number, scene in enumerate(drawn, start=1)]


def _drawn(number: int, pixels: np.ndarray, labels: np.ndarray) -> Drawn:
    names = [COMBINATIONS[index] for index in sorted(set(labels.ravel().tolist()))]
    return Drawn(name_of(pixels.tobytes()), f"generated scene {number}", Image.fromarray(pixels), names)
