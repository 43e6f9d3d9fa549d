"""The language of a caption and the perceptual hash of an image, computed without an image-text model.

The language is from py3langid (BSD-3-Clause; its model of 139 languages is in the package). It is made for sentences
and gives a wrong language for some short captions (names of dishes, for example). Therefore the probability of English
is stored too.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from PIL import Image

from silc.extras import needs

if TYPE_CHECKING:
    import numpy.typing as npt

HASHED, KEPT = 32, 8
"""Side of the resized image to hash, and side of the block of frequencies that is kept."""
ROUNDING = 1e-9
"""Frequencies below this fraction of the largest are set to 0."""


class Language(NamedTuple):
    """The most probable language of a text (ISO 639 code), its probability, and the probability of English."""

    code: str
    probability: float
    english: float


def language_of(text: str) -> Language:
    """Detect the language of a text.

    Raises:
        BadInput: py3langid is not installed.
    """
    ranked = _identifier().rank(" ".join(text.split()))
    code, probability = ranked[0]
    return Language(code, float(probability), float(dict(ranked).get("en", 0.0)))


@cache
def _identifier() -> Any:
    module = needs("telling languages", "py3langid.langid", "curate")
    return module.LanguageIdentifier.from_model_file(module.MODEL_FILE, norm_probs=True)


def perceptual_hash(pixels: np.ndarray) -> int:
    """A 64-bit hash that is equal or similar for images that look alike: the signs of the lowest frequencies relative
    to their median (pHash; the bits of imagehash's `phash`, the first bit is the highest).

    Args:
        pixels: uint8 [H, W, 3].
    """
    grey = Image.fromarray(pixels).convert("L").resize((HASHED, HASHED), Image.Resampling.LANCZOS)
    waves = _cosines()
    low = waves @ np.asarray(grey, np.float64) @ waves.T
    low[abs(low) < ROUNDING * abs(low).max()] = 0  # for images of one colour, rounding errors differ by CPU
    bits = (low > np.median(low)).flatten()
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


@cache
def _cosines() -> npt.NDArray[np.float64]:
    """The first rows of the discrete cosine transform, [KEPT, HASHED]."""
    places = (np.arange(HASHED) + 0.5) * np.pi / HASHED
    return np.asarray(np.cos(np.outer(np.arange(KEPT), places)), np.float64)
