"""Every random draw of the data has a name: what it is for, the seed, and which visit of which sample.

Draws never come from a shared generator, so adding a view, a worker or a rank changes no other draw.
"""

from __future__ import annotations

import zlib

import numpy as np


def stream(name: str, *visit: int) -> np.random.Generator:
    """A fresh random generator for one purpose and visit, for example `stream("caption", seed, epoch, index)`.

    All visits of one name must have the same length: numpy pads short seeds with zeros, (1, 2) and (1, 2, 0) are
    one seed to it.
    """
    return np.random.Generator(np.random.PCG64([zlib.crc32(name.encode()), *visit]))
