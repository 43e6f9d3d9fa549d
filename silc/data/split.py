"""Pairs held out of training: a fixed draw, and the source without them."""

from __future__ import annotations

import copy
import hashlib
from typing import TYPE_CHECKING

import numpy as np

from silc.data.pairs import Pairs
from silc.data.streams import stream
from silc.types import BadInput

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from silc.data.pairs import Pair
    from silc.images import Suffices


def draw_held_out(pairs: Pairs, num: int) -> np.ndarray:
    """Sorted numbers int64 [num] of the pairs to hold out: evenly at random, the same whatever the run's seed.

    Raises:
        BadInput: that leaves nothing to train on.
    """
    if num >= len(pairs):
        raise BadInput(f"train.held_out is {num} of {len(pairs)} pairs; hold out fewer, or 0 for none")
    return _drawn(len(pairs), num)


def _drawn(total: int, num: int) -> np.ndarray:
    return np.sort(stream("held_out").choice(total, size=num, replace=False, shuffle=False)).astype(np.int64)


class Without(Pairs):
    """The `Pairs` that are left when some are held out."""

    def __init__(self, pairs: Pairs, held_out: np.ndarray) -> None:
        """`held_out` int64 [n], sorted."""
        self.pairs = pairs
        ends = np.cumsum(pairs.blocks)
        lost = np.bincount(np.searchsorted(ends, held_out, side="right"), minlength=len(ends))
        self.blocks = pairs.blocks - lost
        self._held_out = held_out.astype("<i8")
        self.fingerprint = f"{pairs.fingerprint}-{hashlib.sha256(self._held_out.tobytes()).hexdigest()[:32]}"
        self.faults, self.contents = pairs.faults, pairs.contents
        self._before = held_out - np.arange(len(held_out))
        """How many pairs that are left stand before each that is held out."""

    @property
    def former_fingerprint(self) -> str:
        """Of the pairs left by `draw_held_out`, and no others: only how many are held out."""
        num = len(self._held_out)
        drawn = np.array_equal(self._held_out, _drawn(len(self.pairs), num))
        return f"{self.pairs.fingerprint}-{num}" if drawn else self.fingerprint

    def __len__(self) -> int:
        return len(self.pairs) - len(self._before)

    def __getitem__(self, index: int) -> Pair:
        if not 0 <= index < len(self):
            raise IndexError(index)
        return self.pairs[self._number(index)]

    def where(self, index: int) -> str:
        """As the whole source says."""
        return self.pairs.where(self._number(index))

    def reduced(self, suffices: Suffices) -> Without:
        """As the whole source does."""
        left = copy.copy(self)
        left.pairs = self.pairs.reduced(suffices)
        return left

    def read_ahead(self, indices: Sequence[int]) -> None:
        """As the whole source does."""
        self.pairs.read_ahead([self._number(index) for index in indices])

    def _number(self, index: int) -> int:
        """Of the pair in the whole source."""
        return index + int(np.searchsorted(self._before, index, side="right"))

    def captions(self, limit: int) -> Iterator[str]:
        """Captions to train a tokenizer on; those held out too, as a vocabulary tells nothing of a pair."""
        return self.pairs.captions(limit)
