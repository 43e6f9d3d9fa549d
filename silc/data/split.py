"""Pairs held out of training: a fixed draw, and the source without them."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import numpy as np

from silc.data.streams import stream
from silc.types import BadInput

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from silc.data.pairs import Pair, Pairs
    from silc.images import Suffices


def draw_held_out(pairs: Pairs, num: int) -> np.ndarray:
    """Sorted numbers int64 [num] of the pairs to hold out: evenly at random, the same whatever the run's seed.

    Raises:
        BadInput: that leaves nothing to train on.
    """
    if num >= len(pairs):
        raise BadInput(f"train.held_out is {num} of {len(pairs)} pairs; hold out fewer, or 0 for none")
    return np.sort(stream("held_out").choice(len(pairs), size=num, replace=False, shuffle=False)).astype(np.int64)


class Without:
    """The `Pairs` that are left when some are held out."""

    def __init__(self, pairs: Pairs, held_out: np.ndarray) -> None:
        """`held_out` int64 [n], sorted."""
        self.pairs = pairs
        ends = np.cumsum(pairs.blocks)
        lost = np.bincount(np.searchsorted(ends, held_out, side="right"), minlength=len(ends))
        self.blocks = pairs.blocks - lost
        self.fingerprint = f"{pairs.fingerprint}-{len(held_out)}"
        self.faults = pairs.faults
        # How many pairs stand before each that is held out.
        self._before = held_out - np.arange(len(held_out))

    @property
    def contents(self) -> Mapping[str, int]:
        """Of the whole source."""
        return self.pairs.contents

    def __len__(self) -> int:
        return len(self.pairs) - len(self._before)

    def __getitem__(self, index: int) -> Pair:
        """Raises BadSample when the pair cannot be used."""
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
