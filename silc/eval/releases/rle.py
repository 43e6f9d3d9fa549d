"""COCO's run lengths: a mask column by column, as alternating runs of 0 and 1, given as numbers or packed into text.

In text, a number is a series of digits of five bits, the lowest first, each plus 48. The sixth bit of a digit says that
another digit follows. The fifth bit of the last digit says that the number is negative. From the fourth number on, the
text holds the difference to the number two before it (pycocotools, common/maskApi.c).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from silc.errors import BadInput

if TYPE_CHECKING:
    from numpy.typing import NDArray


def mask_of(packed: Mapping[str, Any], shape: tuple[int, int]) -> NDArray[np.bool_]:
    """The mask [H, W] of {"size": [H, W], "counts": text or numbers}.

    Raises:
        BadInput: the mask has another size, or its runs do not fill it.
    """
    counts = packed["counts"]
    runs = runs_of(counts) if isinstance(counts, str) else list(counts)
    if tuple(packed["size"]) != shape or sum(runs) != shape[0] * shape[1] or min(runs, default=0) < 0:
        raise BadInput(f"a mask of {packed['size']} has {sum(runs)} pixels in its runs; its image has {shape}")
    values = np.arange(len(runs)) % 2 == 1
    return np.repeat(values, runs).reshape(shape[::-1]).T


def runs_of(text: str) -> Sequence[int]:
    """The run lengths that a text holds.

    >>> runs_of("11O1")
    [1, 1, -1, 2]
    """
    runs: list[int] = []
    value = shift = 0
    for digit in text.encode("ascii"):
        code = digit - 48
        value |= (code & 31) << shift
        shift += 5
        if code & 32:
            continue
        if code & 16:
            value -= 1 << shift
        runs.append(value + runs[-2] if len(runs) > 2 else value)
        value = shift = 0
    return runs
