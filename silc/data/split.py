"""Held-out samples: a fixed random choice of them, and the source without them."""

from __future__ import annotations

import copy
import hashlib
from typing import TYPE_CHECKING, Any, Self, cast

import numpy as np

from silc.data.pairs import Sample, Source
from silc.data.streams import stream
from silc.errors import BadInput

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from silc.data.pairs import Pairs
    from silc.images import Suffices


def draw_held_out(pairs: Source[Any], num: int) -> np.ndarray:
    """Numbers of the pairs to hold out, sorted int64 [num], drawn uniformly; they do not depend on the run's seed.

    Raises:
        BadInput: no pair would be left to train on.
    """
    if num >= len(pairs):
        raise BadInput(f"train.held_out is {num} of {len(pairs)} pairs; hold out fewer, or 0 for none")
    return _drawn(len(pairs), num)


def _drawn(total: int, num: int) -> np.ndarray:
    return np.sort(stream("held_out").choice(total, size=num, replace=False, shuffle=False)).astype(np.int64)


class Subset(Source[Sample]):
    """A source without its held-out samples. A subset of `Pairs` has `captions` too."""

    def __init__(self, source: Source[Sample], held_out: np.ndarray) -> None:
        """`held_out` are the numbers of the held-out samples, int64 [n], sorted."""
        self.source = source
        ends = np.cumsum(source.blocks)
        lost = np.bincount(np.searchsorted(ends, held_out, side="right"), minlength=len(ends))
        self.blocks = source.blocks - lost
        self._held_out = held_out.astype("<i8")
        self.fingerprint = f"{source.fingerprint}-{hashlib.sha256(self._held_out.tobytes()).hexdigest()[:32]}"
        self.faults, self.contents = source.faults, source.contents
        self._before = held_out - np.arange(len(held_out))
        """For each held-out sample, the number of remaining samples before it."""

    @property
    def former_fingerprint(self) -> str:
        """The older form, with only the number of held-out samples if `draw_held_out` drew them, else `fingerprint`."""
        num = len(self._held_out)
        drawn = np.array_equal(self._held_out, _drawn(len(self.source), num))
        return f"{self.source.fingerprint}-{num}" if drawn else self.fingerprint

    def __len__(self) -> int:
        return len(self.source) - len(self._before)

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < len(self):
            raise IndexError(index)
        return self.source[self._number(index)]

    def where(self, index: int) -> str:
        return self.source.where(self._number(index))

    def reduced(self, suffices: Suffices) -> Self:
        left = copy.copy(self)
        left.source = self.source.reduced(suffices)
        return left

    def read_ahead(self, indices: Sequence[int]) -> None:
        self.source.read_ahead([self._number(index) for index in indices])

    def _number(self, index: int) -> int:
        """Number of the sample in the whole source."""
        return index + int(np.searchsorted(self._before, index, side="right"))

    def captions(self, limit: int) -> Iterator[str]:
        """Captions to train a tokenizer on, held-out pairs included: a vocabulary does not reveal a pair."""
        return cast("Pairs", self.source).captions(limit)
