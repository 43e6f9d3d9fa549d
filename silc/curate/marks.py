"""Rows of the scores for which something holds that is no SQL: a bit for each row, 125 MB for a billion.

As a table of rows, SQL would join them to the scores; such joins under `or` and `not` stay in memory.
"""

from __future__ import annotations

import numpy as np


class Marks:
    """A set of rows. A row is its file's number, times 2 ** 32, and its number in the file."""

    def __init__(self, starts: np.ndarray) -> None:
        """
        Args:
            starts: int64 [files + 1]: how many rows all files before each have, and all of them.
        """
        self._starts = starts
        self._bits = np.zeros((int(starts[-1]) + 7) // 8, np.uint8)

    def add(self, rows: np.ndarray) -> None:
        """Rows, int64 [n], from now on in the set."""
        places = self._places(rows)
        np.bitwise_or.at(self._bits, places >> 3, (1 << (places & 7)).astype(np.uint8))

    def holds(self, rows: np.ndarray) -> np.ndarray:
        """Which rows, int64 [n], are in the set, bool [n]."""
        places = self._places(rows)
        return np.asarray((self._bits[places >> 3] >> (places & 7).astype(np.uint8)) & 1, bool)

    def _places(self, rows: np.ndarray) -> np.ndarray:
        return np.asarray(self._starts[rows >> 32] + (rows & 0xFFFFFFFF))
