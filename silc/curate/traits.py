"""What is told of a caption and of an image without a model of both: language, hashes.

The language is py3langid's (BSD-3-Clause; its model of 139 languages is in the package). It is made for sentences: of
short captions (names of dishes, say) it takes some for another language, which is why the probability of English is
kept beside its first guess.
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
"""Side of the image that is hashed, and of the frequencies that are kept."""
ROUNDING = 1e-9
"""Frequencies below this share of the greatest are none."""


class Language(NamedTuple):
    """The likeliest language of a text (ISO 639 code) and its probability, and that of English."""

    code: str
    probability: float
    english: float


def language_of(text: str) -> Language:
    """
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
    """64 bits that images which look alike share, or nearly so: the signs of the lowest frequencies about their median
    (pHash; the bits of the library imagehash's `phash`, the first the highest).

    Args:
        pixels: uint8 [H, W, 3].
    """
    grey = Image.fromarray(pixels).convert("L").resize((HASHED, HASHED), Image.Resampling.LANCZOS)
    waves = _cosines()
    low = waves @ np.asarray(grey, np.float64) @ waves.T
    low[abs(low) < ROUNDING * abs(low).max()] = 0  # what rounding leaves of one colour, another on each processor
    bits = (low > np.median(low)).flatten()
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


@cache
def _cosines() -> npt.NDArray[np.float64]:
    """The first rows of the discrete cosine transform, [KEPT, HASHED]."""
    places = (np.arange(HASHED) + 0.5) * np.pi / HASHED
    return np.asarray(np.cos(np.outer(np.arange(KEPT), places)), np.float64)
