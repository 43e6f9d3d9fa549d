"""Sets of rows of the scores, for conditions that SQL cannot express: one bit per row, 125 MB for a billion rows.

A table of rows would need a join with the scores; DuckDB keeps such joins under `or` and `not` in memory.
"""

from __future__ import annotations

import numpy as np


class Marks:
    """A set of rows. A row's number is (number of its file) * 2 ** 32 + (number of the row in the file)."""

    def __init__(self, starts: np.ndarray) -> None:
        """
        Args:
            starts: int64 [files + 1]: number of rows before each file, and the total.
        """
        self._starts = starts
        self._bits = np.zeros((int(starts[-1]) + 7) // 8, np.uint8)

    def add(self, rows: np.ndarray) -> None:
        """Add rows, int64 [n], to the set."""
        places = self._places(rows)
        np.bitwise_or.at(self._bits, places >> 3, (1 << (places & 7)).astype(np.uint8))

    def holds(self, rows: np.ndarray) -> np.ndarray:
        """Whether each of the rows, int64 [n], is in the set, bool [n]."""
        places = self._places(rows)
        return np.asarray((self._bits[places >> 3] >> (places & 7).astype(np.uint8)) & 1, bool)

    def _places(self, rows: np.ndarray) -> np.ndarray:
        return np.asarray(self._starts[rows >> 32] + (rows & 0xFFFFFFFF))
