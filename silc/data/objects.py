"""Generated images of objects with parts, on grounds: a part identifies its object, and an object predicts its ground.

An image shows one to three objects on one ground and depends only on its seed. An object has a name and three parts:

* a grey body with a texture unique to the name: most of the object, hard to recognise;
* a head in a muted colour that three names share;
* a badge in a saturated colour unique to the name: small, easy to recognise.

Each ground is the home of two names. A third of the pairs (name, ground) never occur in training. All textures are
mirror-symmetric with the same mean grey, so a flip or an average neither reveals nor hides a name. The names are
invented words, because the objects look like nothing real.
"""

from __future__ import annotations

import colorsys
import hashlib
import json
from collections import Counter
from dataclasses import asdict
from functools import lru_cache
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from silc.data.pairs import Pair, Pairs
from silc.data.streams import stream

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from silc.data.config import ObjectsConfig

NAMES = ("wug", "toma", "blick", "fep", "gorp", "kiv", "lorp", "mip", "norg", "pilk", "zib", "dak")
GROUNDS = ("grass", "sand", "snow", "water", "brick", "gravel")
PATTERNS = ("rows", "columns", "grid", "dots", "rings", "lattice")
"""Textures of bodies. Each serves two names: light ink on dark, and dark ink on light."""
TEXTURE = tuple((pattern, light) for pattern in PATTERNS for light in (True, False))
"""For each name: (pattern, whether the ink is light)."""
HEADS = ((150, 110, 80), (95, 140, 140), (140, 140, 85), (150, 105, 145))
"""Muted colours of heads; a name has the colour at its number modulo 4."""
BADGES = tuple(
    tuple(round(255 * c) for c in colorsys.hsv_to_rgb((5 * i % 12) / 12, 0.95, 0.95)) for i in range(len(NAMES))
)
TONES = (
    ((70, 125, 60), (90, 150, 75)),
    ((205, 180, 130), (185, 160, 112)),
    ((228, 232, 238), (212, 218, 228)),
    ((55, 90, 140), (75, 115, 165)),
    ((150, 80, 65), (175, 160, 150)),
    ((120, 115, 110), (90, 86, 82)),
)
"""The two colours of each ground."""
HOME = tuple(name // 2 for name in range(len(NAMES)))
"""Home ground of each name."""
UNSEEN = frozenset(
    (name, (HOME[name] + away + name % 2) % len(GROUNDS)) for name in range(len(NAMES)) for away in (2, 4)
)
"""The 24 of 72 pairs (name, ground) that never occur in training."""

PERIODS = (7.0, 7.5, 8.0, 8.5, 9.0)
"""Periods of a body's texture, in pixels."""
AREA = 2.5
"""Approximate area of an object without its head, in units of its scale squared; `badge` is a fraction of this."""
CONTRAST = 80
"""Difference between light and dark in a body's texture, in 8-bit values."""
BODY, HEAD, BADGE = range(3)
TRAINING = 0
"""The second number of a training image's seed; evaluation sets use other numbers."""

NUM_CAPTIONS = 4
SENTENCES = (
    "{} on {}",
    "a picture of {} on {}",
    "we see {} on {}",
    "{}, standing on {}",
    "an image of {} on {}",
    "{} seen on {}",
)
UNRELATED = ("photo of the day", "click to enlarge", "new in stock, order now", "no description")
COUNTS = ("a", "two", "three")


class Disc(NamedTuple):
    """A filled circle, in pixels."""

    y: float
    x: float
    radius: float


class Thing(NamedTuple):
    """An object: its name, and its parts as discs; later discs cover earlier ones."""

    name: int
    discs: tuple[tuple[int, Disc], ...]  # (part, disc)
    grey: int
    """Mean grey of its body."""
    tile: tuple[int, int, int]
    """Index into PERIODS, and the two shifts of its texture."""


class Layout(NamedTuple):
    """Description of an image before it is drawn."""

    ground: int
    things: tuple[Thing, ...]  # later ones cover earlier ones


class Drawing(NamedTuple):
    """An image with the object and part of each pixel."""

    pixels: np.ndarray  # uint8 [H, W, 3], RGB
    thing: np.ndarray  # int8 [H, W] number of the object, -1: ground
    part: np.ndarray  # int8 [H, W] BODY, HEAD, BADGE, -1: ground


def lay_out(seed: tuple[int, ...], config: ObjectsConfig, *, unseen: bool = False, most: int | None = None) -> Layout:
    """The random layout of an image, determined by the seed.

    Args:
        seed: any numbers, but equally many for all images of one set (see `stream`).
        unseen: use only the pairs (name, ground) that training never shows; otherwise only the other pairs.
        most: maximum number of objects; by default the configuration's.
    """
    rng = stream("objects", *seed)
    ground = int(rng.integers(len(GROUNDS)))
    count = 1 + int(rng.integers(most or config.most))
    names = rng.choice(len(NAMES), count, p=name_likelihood(ground, config.at_home, unseen=unseen)).tolist()
    places = [(0.5, 0.5)] if count == 1 else [_CORNERS[i] for i in rng.permutation(4)[:count].tolist()]
    low, high = (0.3, 0.4) if count == 1 else (0.2, 0.26)
    draws = rng.random((count, 10)).tolist()
    wholes = rng.integers(0, (41, len(PERIODS), 8, 8), (count, 4)).tolist()
    things = []
    for name, (y, x), draw, (grey, *tile) in zip(names, places, draws, wholes, strict=True):
        scale = config.size * (low + (high - low) * draw[0])
        free = 0.1 if count == 1 else 0.04
        centre = config.size * (y + free * (2 * draw[1] - 1)), config.size * (x + free * (2 * draw[2] - 1))
        things.append(Thing(name, _discs(centre, scale, draw[3:], config.badge), 108 + grey, tuple(tile)))
    return Layout(ground, tuple(things))


_CORNERS = ((0.28, 0.28), (0.28, 0.72), (0.72, 0.28), (0.72, 0.72))


@lru_cache(maxsize=32)
def name_likelihood(ground: int, at_home: float, *, unseen: bool) -> np.ndarray:
    """Probability of each name on a ground, [12], summing to 1."""
    there = np.array([((name, ground) in UNSEEN) == unseen for name in range(len(NAMES))], dtype=np.float64)
    home = there * np.array([HOME[name] == ground for name in range(len(NAMES))])
    if not home.any():
        return np.asarray(there / there.sum())
    away = there - home
    likelihood: np.ndarray = at_home * home / home.sum() + (1 - at_home) * away / away.sum()
    return likelihood


def _discs(
    centre: tuple[float, float], scale: float, draws: Sequence[float], badge: float
) -> tuple[tuple[int, Disc], ...]:
    """Discs of an object: a body of three, a head at the body's rim, a badge on the body."""

    def disc(away: float, turn: float, radius: float) -> Disc:
        angle = 2 * np.pi * turn
        return Disc(
            centre[0] + scale * away * float(np.sin(angle)),
            centre[1] + scale * away * float(np.cos(angle)),
            scale * radius,
        )

    turn = draws[0]
    body = (
        disc(0, 0, 0.75),
        disc(0.45, turn, 0.5 + 0.15 * draws[1]),
        disc(0.45, turn + 0.3 + 0.4 * draws[2], 0.5 + 0.15 * draws[3]),
    )
    parts = [(BODY, one) for one in body] + [(HEAD, disc(0.95, draws[4], 0.38))]
    if badge:
        parts.append((BADGE, disc(0.25 * draws[5], draws[6], (badge * AREA / np.pi) ** 0.5)))
    return tuple(parts)


def draw(layout: Layout, seed: tuple[int, ...], config: ObjectsConfig) -> Drawing:
    """Draw the image of a layout; the seed determines the pixel noise and the colour jitter."""
    size, rng = config.size, stream("object pixels", *seed)
    y, x = _along(size)
    # A pixel's code is a row of the palette. Rows: two tones of the ground; dark, light, head, badge of each object.
    code = _ground(layout.ground, size)[rng.integers(8) :, rng.integers(8) :][:size, :size].copy()
    palette = np.empty((2 + 4 * len(layout.things), 3), dtype=np.int16)
    palette[:2] = TONES[layout.ground]
    for number, thing in enumerate(layout.things):
        first = 2 + 4 * number
        period, down, right = thing.tile
        pattern, light = TEXTURE[thing.name]
        tile, duty = _texture(pattern, PERIODS[period], size)
        tile = tile[down : down + size, right : right + size]
        ink = duty if light else 1 - duty
        palette[first : first + 4] = (
            (round(thing.grey - config.contrast * CONTRAST * ink),) * 3,
            (round(thing.grey + config.contrast * CONTRAST * (1 - ink)),) * 3,
            HEADS[thing.name % len(HEADS)],
            BADGES[thing.name],
        )
        for part, disc in thing.discs:
            rows, columns = _span(disc.y, disc.radius, size), _span(disc.x, disc.radius, size)
            inside = (y[rows] - disc.y) ** 2 + (x[:, columns] - disc.x) ** 2 <= disc.radius**2
            value = first + (tile[rows, columns] == light) if part == BODY else first + 1 + part
            np.copyto(code[rows, columns], value, where=inside, casting="unsafe")
    palette += rng.integers(-8, 9, palette.shape, dtype=np.int16)
    noise = np.frombuffer(rng.bytes(size * size * 3), dtype=np.int8).reshape(size, size, 3) >> 4  # -8 to 7
    pixels = (palette[code] + noise).clip(0, 255).astype(np.uint8)
    return Drawing(pixels, _THING[code], _PART[code])


_CODES = np.arange(2 + 4 * 3)
_THING = np.where(_CODES < 2, -1, (_CODES - 2) // 4).astype(np.int8)
_PART = np.where(_CODES < 2, -1, np.maximum((_CODES - 2) % 4 - 1, BODY)).astype(np.int8)
"""For each index of the colours in `draw`: the object (_THING) and its part (_PART); -1 for the ground."""


def _span(centre: float, radius: float, size: int) -> slice:
    """The rows (or columns) that a disc can cover."""
    return slice(max(0, int(centre - radius)), min(size, int(centre + radius) + 2))


@lru_cache(maxsize=4)
def _along(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows [size, 1] and columns [1, size] in pixels."""
    along = np.arange(size, dtype=np.float64)
    return along[:, None], along[None, :]


@lru_cache(maxsize=64)
def _texture(pattern: str, period: float, size: int) -> tuple[np.ndarray, float]:
    """Mask of a pattern's ink, bool [size + 8, size + 8], and the fraction of ink."""
    along = np.arange(size + 8, dtype=np.float64)
    v, u = along[:, None] % period, along[None, :] % period
    line = 0.3 * period
    ink = {
        "rows": lambda: (v < line) & (u >= 0),
        "columns": lambda: (u < line) & (v >= 0),
        "grid": lambda: (v < 0.2 * period) | (u < 0.2 * period),
        "dots": lambda: np.hypot(v - period / 2, u - period / 2) < 0.33 * period,
        "rings": lambda: abs(np.hypot(v - period / 2, u - period / 2) - 0.35 * period) < 0.13 * period,
        "lattice": lambda: ((v + u) % period < 0.2 * period) | ((v - u) % period < 0.2 * period),
    }[pattern]()
    return ink, float(ink.mean())


@lru_cache(maxsize=16)
def _ground(ground: int, size: int) -> np.ndarray:
    """Index (0 or 1) of the ground's tone at each pixel, uint8 [size + 8, size + 8]."""
    y, x = np.arange(size + 8)[:, None], np.arange(size + 8)[None, :]
    rng = stream("ground", ground, size)
    specks = rng.random((size + 8, size + 8))
    stones = np.kron(rng.random((size // 2 + 5, size // 2 + 5)), np.ones((2, 2)))[: size + 8, : size + 8]
    second = {
        "grass": specks < 0.5,
        "sand": specks < 0.25,
        "snow": specks < 0.1,
        "water": (y + np.rint(1.5 * np.sin(x / 3))) % 6 < 2,
        "brick": (y % 6 == 0) | ((x + 5 * (y // 6 % 2)) % 10 == 0),
        "gravel": stones < 0.4,
    }[GROUNDS[ground]]
    return np.asarray(second, dtype=np.uint8)


def content(layout: Layout) -> tuple[int, tuple[tuple[int, int], ...]]:
    """The content that captions describe: the ground, and (name, count) in the order of NAMES."""
    return layout.ground, tuple(sorted(Counter(thing.name for thing in layout.things).items()))


def captions(layout: Layout, seed: tuple[int, ...], noise: float) -> tuple[str, ...]:
    """NUM_CAPTIONS sentences about a layout; each is wrong with probability `noise`, as captions on the web are.

    A wrong caption omits an object or the ground, or names another object, or is unrelated to the image.
    """
    rng = stream("object captions", *seed)
    ground, shown = content(layout)
    found = []
    for sentence in rng.permutation(len(SENTENCES))[:NUM_CAPTIONS].tolist():
        said = [shown[i] for i in rng.permutation(len(shown)).tolist()]
        frame, place = SENTENCES[sentence], GROUNDS[ground]
        if rng.random() < noise:
            fault, which, other = rng.integers(0, (3, len(said), len(NAMES))).tolist()
            if fault == 0 and len(said) > 1:
                del said[which]
            elif fault == 0:
                frame = frame.partition(", standing")[0].partition(" on {}")[0]
            elif fault == 1:
                said[which] = (other, said[which][1])
            else:
                frame = UNRELATED[other % len(UNRELATED)]
        found.append(frame.format(listed(said), place))
    return tuple(found)


def listed(said: Sequence[tuple[int, int]]) -> str:
    """[(0, 1), (3, 2)] -> "a wug and two feps"."""
    *first, last = (f"{COUNTS[count - 1]} {NAMES[name]}{'s' * (count > 1)}" for name, count in said)
    return f"{', '.join(first)} and {last}" if first else last


class ObjectPairs(Pairs):
    """Training images by number, with captions; each epoch has the same images."""

    def __init__(self, config: ObjectsConfig, seed: int) -> None:
        self.config, self.seed = config, seed
        self.blocks = np.array([config.num], dtype=np.int64)
        said = f"objects {json.dumps(asdict(config), sort_keys=True)} {seed}"
        self.fingerprint = hashlib.sha256(said.encode()).hexdigest()

    def __len__(self) -> int:
        return self.config.num

    def __getitem__(self, index: int) -> Pair:
        if not 0 <= index < len(self):
            raise IndexError(index)
        turn = self.seed, TRAINING, index
        layout = lay_out(turn, self.config)
        said = captions(layout, turn, self.config.caption_noise)
        return Pair(f"objects-{index:08d}", draw(layout, turn, self.config).pixels, said)

    def where(self, index: int) -> str:
        """The image's number, for messages."""
        return f"image {index} of generated objects"

    def captions(self, limit: int) -> Iterator[str]:
        """At most `limit` captions; it draws no image."""
        turns = ((self.seed, TRAINING, index) for index in range(len(self)))
        found = (one for turn in turns for one in captions(lay_out(turn, self.config), turn, self.config.caption_noise))
        yield from islice(found, limit)
