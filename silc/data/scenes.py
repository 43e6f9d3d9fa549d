"""Generated scenes: regions of colour and texture, captions that name them, and the class of every pixel.

A scene depends only on its seed. 8 colours times 4 textures give 32 combinations. 6 of them never occur in training,
but each colour and each texture does. Captions name no positions (crops are mirrored) and no shapes (a demo is too
short to learn them). A texture's period is at most 8 pixels, so one patch shows it.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from silc.data.pairs import Pair, Pairs
from silc.data.streams import stream

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path


COLOURS: Mapping[str, tuple[int, int, int]] = {
    "red": (215, 35, 40),
    "orange": (245, 140, 25),
    "yellow": (240, 225, 45),
    "green": (40, 160, 60),
    "cyan": (60, 205, 215),
    "blue": (40, 85, 225),
    "purple": (135, 50, 185),
    "pink": (250, 150, 205),
}
TEXTURES: tuple[str, ...] = ("plain", "stripes", "dots", "checks")
GROUND = (32, 32, 36)
"""Background colour of stripes, dots and checks."""

COMBINATIONS: tuple[str, ...] = tuple(
    f"plain {colour}" if texture == "plain" else f"{colour} {texture}" for colour in COLOURS for texture in TEXTURES
)
HELD_OUT: frozenset[str] = frozenset(
    {"red checks", "yellow stripes", "green dots", "blue stripes", "purple checks", "plain pink"}
)
SEEN: tuple[int, ...] = tuple(i for i, name in enumerate(COMBINATIONS) if name not in HELD_OUT)
"""The 26 combinations of training scenes."""

NUM_CAPTIONS = 4
MIN_SHARE = 0.1
"""Minimum fraction of the image that a region covers."""
SENTENCES: tuple[tuple[str, str], ...] = (
    ("{}", " and "),
    ("{}", " with "),
    ("a picture of {}", " and "),
    ("an image that shows {}", " and "),
    ("there are {}", " and also "),
    ("we see {}", " along with "),
    ("{} in one picture", " and "),
    ("a pattern of {}", " plus "),
)
"""(sentence with {} for the list of regions, words that join the last region to the others)."""

# Evaluation scenes have other seeds than training scenes: the second number of the seed is the set.
TRAINING, RETRIEVAL, SEGMENTATION, CLASSIFICATION = range(4)


@dataclass(frozen=True)
class Scene:
    """An image with its pixel labels and captions."""

    pixels: np.ndarray  # uint8 [H, W, 3], RGB
    labels: np.ndarray  # uint8 [H, W] index into COMBINATIONS
    captions: tuple[str, ...]  # each names all regions


def render(
    seed: tuple[int, ...], *, size: int, combinations: Sequence[int], num_regions: tuple[int, int] = (2, 4)
) -> Scene:
    """Draw one square scene.

    Args:
        seed: any numbers, but equally many for all scenes of one set (see `stream`).
        size: side in pixels.
        combinations: indices into COMBINATIONS to choose from, without repetition.
        num_regions: minimum and maximum number of regions.
    """
    chosen, captions = describe(seed, combinations=combinations, num_regions=num_regions)
    rng = stream("scene pixels", *seed)
    cells = _cells(rng, size, len(chosen))  # [H, W] which region
    ink = np.ones((size, size), dtype=bool)
    palette = np.empty((len(chosen), 2, 3), dtype=np.int16)  # ground and ink of each region
    jitter = rng.integers(-14, 15, palette.shape)
    colours = list(COLOURS.values())
    for region, combination in enumerate(chosen):
        colour, texture = divmod(int(combination), len(TEXTURES))
        palette[region] = GROUND, colours[colour]
        if TEXTURES[texture] != "plain":
            np.copyto(ink, _texture(rng, TEXTURES[texture], size), where=cells == region)
    palette += jitter.astype(np.int16)
    noise = np.frombuffer(rng.bytes(size * size * 3), dtype=np.int8).reshape(size, size, 3) >> 4  # -8 to 7
    pixels = palette.reshape(-1, 3)[2 * cells + ink] + noise
    return Scene(pixels.clip(0, 255).astype(np.uint8), chosen.astype(np.uint8)[cells], captions)


def describe(
    seed: tuple[int, ...], *, combinations: Sequence[int], num_regions: tuple[int, int] = (2, 4)
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Content of the scene with this seed, without drawing it: combinations, int64 [num regions], and captions."""
    rng = stream("scene", *seed)
    count = int(rng.integers(num_regions[0], num_regions[1] + 1))
    chosen = rng.permutation(np.asarray(combinations, dtype=np.int64))[:count]
    orders = rng.random((NUM_CAPTIONS, count)).argsort(axis=1)
    sentences = rng.permutation(len(SENTENCES))[:NUM_CAPTIONS]
    names = [COMBINATIONS[combination] for combination in chosen]
    captions = []
    for order, sentence in zip(orders.tolist(), sentences.tolist(), strict=True):
        frame, joint = SENTENCES[sentence]
        *first, last = (names[region] for region in order)
        captions.append(frame.format(", ".join(first) + joint + last if first else last))
    return chosen, tuple(captions)


@lru_cache(maxsize=4)
def _grid(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows [size, 1] and columns [1, size] in pixels."""
    along = np.arange(size, dtype=np.float32)
    return along[:, None], along[None, :]


def _cells(rng: np.random.Generator, size: int, count: int) -> np.ndarray:
    """Voronoi cells of random points, int64 [size, size]; each covers at least MIN_SHARE of the image."""
    y, x = _grid(size)
    while True:
        points = rng.uniform(0, size, (count, 2)).astype(np.float32)
        # |p - x|^2 without |x|^2, which is the same for every point
        py, px = points[:, 0, None, None], points[:, 1, None, None]
        cells: np.ndarray = ((py * py - 2 * py * y) + (px * px - 2 * px * x)).argmin(axis=0)
        if np.bincount(cells.ravel(), minlength=count).min() >= MIN_SHARE * size * size:
            return cells


def _texture(rng: np.random.Generator, texture: str, size: int) -> np.ndarray:
    """Mask of a texture's ink, bool [size, size]; the period is 6 to 8 pixels."""
    y, x = _grid(size)
    period, shift_y, shift_x = rng.uniform((6, 0, 0), (8, 8, 8)).tolist()
    if texture == "stripes":
        along = [x, y, (x + y) * np.float32(0.7071), (x - y) * np.float32(0.7071)][int(rng.integers(4))]
        return np.broadcast_to((along + shift_x) % period < period / 2, (size, size))
    v, u = (y + shift_y) % period, (x + shift_x) % period
    ink: np.ndarray
    if texture == "checks":
        ink = (v < period / 2) ^ (u < period / 2)
    else:
        ink = (v - period / 2) ** 2 + (u - period / 2) ** 2 < (0.33 * period) ** 2
    return ink


class ScenePairs(Pairs):
    """Training scenes by number, with the seen combinations only; each epoch has the same scenes."""

    def __init__(self, num: int, size: int, seed: int) -> None:
        self.num, self.size, self.seed = num, size, seed
        self.blocks = np.array([num], dtype=np.int64)
        self.fingerprint = hashlib.sha256(f"scenes {num} {size} {seed}".encode()).hexdigest()

    def __len__(self) -> int:
        return self.num

    def __getitem__(self, index: int) -> Pair:
        if not 0 <= index < self.num:
            raise IndexError(index)
        scene = render((self.seed, TRAINING, index), size=self.size, combinations=SEEN)
        return Pair(f"scene-{index:08d}", scene.pixels, scene.captions)

    def where(self, index: int) -> str:
        return f"scene {index}"

    def captions(self, limit: int) -> Iterator[str]:
        """At most `limit` captions; it draws no scene."""
        scenes = (describe((self.seed, TRAINING, index), combinations=SEEN) for index in range(self.num))
        yield from islice((caption for _, captions in scenes for caption in captions), limit)


def write_sets(
    root: Path,
    *,
    size: int,
    seed: int,
    num_retrieval: int = 1000,
    num_segmentation: int = 200,
    per_class: int = 20,
) -> None:
    """Write evaluation scenes under an empty or new `root`, in the folder layout of real evaluation sets.

    * retrieval/scenes: no two images show the same set of combinations, so each caption has one right answer;
    * segmentation/scenes: the 26 seen combinations as classes, no background;
    * classification/scenes_seen: one region per image, the 26 seen combinations;
    * classification/scenes_heldout: images of the 6 held-out combinations, with all 32 names as classes.
    """
    _write_retrieval(root / "retrieval/scenes", size, seed, num_retrieval)
    _write_segmentation(root / "segmentation/scenes", size, seed, num_segmentation)
    seen = [COMBINATIONS[i] for i in SEEN]
    _write_classification(root / "classification/scenes_seen", size, seed, per_class, seen, seen)
    held_out = [name for name in COMBINATIONS if name in HELD_OUT]
    _write_classification(root / "classification/scenes_heldout", size, seed, per_class, COMBINATIONS, held_out)


def _write_retrieval(folder: Path, size: int, seed: int, num: int) -> None:
    (folder / "images").mkdir(parents=True, exist_ok=True)
    entries: list[dict[str, object]] = []
    shown: set[frozenset[int]] = set()
    number = 0
    while len(entries) < num:
        scene_seed = (seed, RETRIEVAL, number)
        number += 1
        content = frozenset(describe(scene_seed, combinations=SEEN)[0].tolist())
        if content in shown:
            continue
        shown.add(content)
        scene = render(scene_seed, size=size, combinations=SEEN)
        name = f"images/{len(entries):05d}.png"
        Image.fromarray(scene.pixels).save(folder / name)
        entries.append({"image": name, "captions": list(scene.captions)})
    write_json(folder / "captions.json", entries)


def _write_segmentation(folder: Path, size: int, seed: int, num: int) -> None:
    for part in ("images", "labels"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    class_of = np.full(len(COMBINATIONS), 255, dtype=np.uint8)
    class_of[list(SEEN)] = np.arange(len(SEEN))
    for number in range(num):
        scene = render((seed, SEGMENTATION, number), size=size, combinations=SEEN)
        Image.fromarray(scene.pixels).save(folder / f"images/{number:05d}.png")
        Image.fromarray(class_of[scene.labels]).save(folder / f"labels/{number:05d}.png")
    write_lines(folder / "classes.txt", [COMBINATIONS[i] for i in SEEN])
    write_json(folder / "meta.json", [{"id": f"{number:05d}"} for number in range(num)])


def _write_classification(
    folder: Path, size: int, seed: int, per_class: int, names: Sequence[str], shown: Sequence[str]
) -> None:
    """Write one folder for each of `names`, in their order. Only the folders of `shown` have images."""
    for number, name in enumerate(names):
        class_folder = folder / "test" / f"{number:02d}-{name.replace(' ', '-')}"
        class_folder.mkdir(parents=True, exist_ok=True)
        combination = COMBINATIONS.index(name)
        for image in range(per_class if name in shown else 0):
            scene_seed = (seed, CLASSIFICATION, combination * per_class + image)
            scene = render(scene_seed, size=size, combinations=[combination], num_regions=(1, 1))
            Image.fromarray(scene.pixels).save(class_folder / f"{image:03d}.png")
    write_lines(folder / "classes.txt", names)


def write_json(path: Path, content: object) -> None:
    """Write indented JSON."""
    path.write_text(json.dumps(content, indent=1) + "\n")


def write_lines(path: Path, lines: Sequence[str]) -> None:
    """Write a text file, one line per item."""
    path.write_text("\n".join(lines) + "\n")
