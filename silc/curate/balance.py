"""MetaCLIP's balancing: each entry of a list keeps about `most` captions or fewer.

After "Demystifying CLIP Data" (Xu et al., 2024), section 3: a caption matches every entry that is a substring of it. An
entry with n matches keeps each with probability min(1, `most` / n). A caption is kept if at least one of its entries
keeps it; a caption without entries is dropped. The uid seeds the draws, so the order of the rows does not matter.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import pyarrow as pa

    from silc.curate.scores import Scores


class Matcher:
    """Finds the entries in a text, as whole words in lower case (the paper puts spaces around entries and texts)."""

    def __init__(self, entries: Iterable[str]) -> None:
        self.entries = sorted({" ".join(_plain(entry)) for entry in entries} - {""})
        self._number = {entry: number for number, entry in enumerate(self.entries)}
        self._longest = max((entry.count(" ") + 1 for entry in self.entries), default=0)

    def __call__(self, text: str) -> list[int]:
        """Sorted numbers of the entries found in a text, each once."""
        words = _plain(text)
        spans = (
            " ".join(words[start : start + length])
            for start in range(len(words))
            for length in range(1, min(self._longest, len(words) - start) + 1)
        )
        return sorted({number for span in spans if (number := self._number.get(span)) is not None})


def balanced(scores: Scores, column: str, entries: Sequence[str], most: float, *, seed: int) -> str:
    """SQL condition: at least one entry keeps the caption."""
    matcher = Matcher(entries)
    counts = np.zeros(len(matcher.entries), np.int64)
    for batch in scores.batches([column]):
        for caption in batch.column(0).to_pylist():
            counts[matcher(caption or "")] += 1
    keep = np.minimum(1.0, most / np.maximum(counts, 1))

    return scores.marks([column, "uid"], lambda batch: _drawn(batch, matcher, keep, seed))


def _drawn(batch: pa.RecordBatch, matcher: Matcher, keep: np.ndarray, seed: int) -> np.ndarray:
    """Bool [n]: whether at least one entry keeps the caption."""
    kept = []
    for caption, uid in zip(batch.column(1).to_pylist(), batch.column(2).to_pylist(), strict=True):
        shares = keep[matcher(caption or "")]
        if not len(shares) or shares.max() >= 1:  # nothing to draw, which takes most of the time
            kept.append(bool(len(shares)))
            continue
        draws = np.random.Generator(np.random.PCG64([seed, int(uid, 16)])).random(len(shares))
        kept.append(bool((draws < shares).any()))
    return np.array(kept, bool)


def _plain(text: str) -> list[str]:
    return re.sub(r"[^\w]+", " ", text.lower()).split()
