"""Captions that have a word of a list: DataComp's text-based filter.

DataComp looks up each word, as it stands between white space, in WordNet and asks whether the first synset is among
those of ImageNet-21k's entities; the list holds the words for which it is (docs/guides/curation.md makes one). The
filter asks for English besides.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Collection

    import pyarrow as pa

    from silc.curate.scores import Scores


def text_based(scores: Scores, column: str, words: Collection[str]) -> str:
    """A condition: one of the caption's words is among these, letter for letter."""
    listed = frozenset(words)

    def passes(batch: pa.RecordBatch) -> np.ndarray:
        captions = batch.column(1).to_pylist()
        return np.array([caption is not None and not listed.isdisjoint(caption.split()) for caption in captions], bool)

    return scores.marks([column], passes)
