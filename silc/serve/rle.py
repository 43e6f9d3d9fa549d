"""Masks as COCO writes them: run lengths, column by column, in its letters (cocoapi, common/maskApi.c: rleToString)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


def encoded(labels: NDArray[Any], num_classes: int) -> list[str]:
    """The `counts` of each class's mask in labels [H, W], with one pass over the picture for all classes.

    >>> encoded(np.array([[0, 1], [0, 1]]), 3)
    ['022', '22', '4']
    """
    flat = labels.ravel(order="F")
    starts = np.concatenate([[0], np.flatnonzero(flat[1:] != flat[:-1]) + 1])
    ends, values = np.append(starts[1:], flat.size), flat[starts]
    return [_counts(starts[values == index], ends[values == index], flat.size) for index in range(num_classes)]


def _counts(starts: NDArray[Any], ends: NDArray[Any], size: int) -> str:
    """The counts for the runs [start, end) of a mask: lengths outside, inside, outside, ... of the mask."""
    bounds = np.stack([starts, ends], axis=1).ravel()
    lengths = np.diff(np.concatenate([[0], bounds, [size]])).tolist()
    return _letters(lengths[:-1] if len(lengths) > 1 and not lengths[-1] else lengths)


def _letters(lengths: list[int]) -> str:
    """Encode lengths; from the fourth on, each is written as its difference from the length two before it."""
    return "".join("".join(_letters_of(one - (lengths[at - 2] if at > 2 else 0))) for at, one in enumerate(lengths))


def _letters_of(number: int) -> Iterable[str]:
    """Encode a number, 5 bits a letter, the lowest first. A letter's sixth bit says that more follow; the last letter's
    fifth bit is the sign."""
    more = True
    while more:
        low = number & 0x1F
        number >>= 5
        more = number != (-1 if low & 0x10 else 0)
        yield chr(48 + low + 0x20 * more)
