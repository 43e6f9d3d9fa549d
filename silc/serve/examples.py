"""Example pictures, there from the start: generated objects and scenes, which belong to nobody."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from PIL import Image

from silc.data.config import ObjectsConfig
from silc.data.objects import GROUNDS, NAMES, draw, lay_out
from silc.data.scenes import COMBINATIONS, SEEN, render
from silc.serve.pictures import name_of

if TYPE_CHECKING:
    import numpy as np

NUM = 3
"""Pictures of each kind."""
SMALLEST, LARGEST = 48, 256
"""Pixels of a picture's side: textures are finer than patches, so it is drawn as large as the model sees it."""


@dataclass(frozen=True)
class Drawn:
    """A picture, and words that go with it."""

    id: str
    title: str
    image: Image.Image
    names: Sequence[str]


def examples(size: int) -> list[Drawn]:
    """Pictures for a model of this image size: objects, as the demo's models know them, then scenes."""
    side = min(max(size, SMALLEST), LARGEST)
    return [*objects(side), *scenes(side)]


def objects(side: int) -> Iterator[Drawn]:
    """Objects on grounds, with their names and the ground's."""
    config = ObjectsConfig(size=side)
    for number in range(1, NUM + 1):
        seed = (0, 9, number)
        layout = lay_out(seed, config)
        names = [NAMES[name] for name in sorted({thing.name for thing in layout.things})]
        yield _drawn(f"generated objects {number}", draw(layout, seed, config).pixels, [*names, GROUNDS[layout.ground]])


def scenes(side: int) -> Iterator[Drawn]:
    """Scenes, with the names of their regions."""
    for number in range(1, NUM + 1):
        scene = render((0, 9, number - 1), size=side, combinations=SEEN, num_regions=(3, 4))
        names = [COMBINATIONS[index] for index in sorted(set(scene.labels.ravel().tolist()))]
        yield _drawn(f"generated scene {number}", scene.pixels, names)


def _drawn(title: str, pixels: np.ndarray, names: Sequence[str]) -> Drawn:
    return Drawn(name_of(pixels.tobytes()), title, Image.fromarray(pixels), names)
