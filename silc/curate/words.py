"""DataComp's text-based filter: it keeps English captions that contain a word of a list.

DataComp splits a caption at white space, looks up each word in WordNet, and tests if its first synset is among those of
ImageNet-21k's entities. The list holds the words that pass this test (docs/guides/curation.md makes one). The filter
also requires English.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Collection

    import pyarrow as pa

    from silc.curate.scores import Scores


def text_based(scores: Scores, column: str, words: Collection[str]) -> str:
    """SQL condition: at least one of the caption's words is in `words`, letter for letter."""
    listed = frozenset(words)

    def passes(batch: pa.RecordBatch) -> np.ndarray:
        captions = batch.column(1).to_pylist()
        return np.array([caption is not None and not listed.isdisjoint(caption.split()) for caption in captions], bool)

    return scores.marks([column], passes)
