"""Random generators for data, one for each purpose, seed and visit of a sample.

Draws never share a generator, so an added view, worker or rank changes no other draw.
"""

from __future__ import annotations

import zlib

import numpy as np


def stream(name: str, *visit: int) -> np.random.Generator:
    """A new random generator for one purpose and visit, for example `stream("caption", seed, epoch, index)`.

    All visits of one name must have the same length: numpy pads short seeds with zeros, so (1, 2) and (1, 2, 0) give
    the same generator.
    """
    return np.random.Generator(np.random.PCG64([zlib.crc32(name.encode()), *visit]))
