"""DataComp's image-based filter: it keeps images whose nearest centroid is also the nearest centroid of a target.

Embeddings are not normalised, as in DataComp (`baselines/apply_filter.py`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from silc.errors import BadInput
from silc.extras import needs

if TYPE_CHECKING:
    import pyarrow as pa

    from silc.curate.scores import Scores

AT_ONCE = 1 << 24
"""Number of dot products in memory at a time."""


def image_near(scores: Scores, column: str, targets: np.ndarray, centroids: np.ndarray) -> str:
    """SQL condition: the image's nearest centroid is the nearest centroid of at least one target.

    Args:
        column: name of the column with the images' embeddings.
        targets, centroids: float [n, D], [K, D].
    """
    wanted = np.unique(nearest_centroid(targets, centroids))

    def passes(batch: pa.RecordBatch) -> np.ndarray:
        return np.isin(nearest_centroid(vectors(batch.column(1), centroids.shape[1]), centroids), wanted)

    return scores.marks([column], passes, column_is_there(scores, column))


def column_is_there(scores: Scores, column: str) -> str:
    """SQL condition: the row has an embedding.

    Raises:
        BadInput: there is no such column.
    """
    return f"{scores.column(column)} IS NOT NULL"


def nearest_centroid(embeddings: np.ndarray, centroids: np.ndarray) -> np.ndarray:
    """Index, int64 [n], of the centroid [K, D] with the largest dot product, for embeddings [n, D]."""
    step, turned = max(1, AT_ONCE // len(centroids)), centroids.T.astype(np.float32)
    parts = [
        np.argmax(embeddings[start : start + step].astype(np.float32) @ turned, axis=1)
        for start in range(0, len(embeddings), step)
    ]
    return np.concatenate(parts) if parts else np.zeros(0, np.int64)


def vectors(column: pa.Array, width: int) -> np.ndarray:
    """A column of lists of `width` numbers as float32 [n, width].

    Raises:
        BadInput: a list has more or fewer numbers.
    """
    pc = needs("choosing among scores", "pyarrow.compute", "curate")
    lengths = np.asarray(pc.list_value_length(column))
    wrong = lengths[lengths != width].tolist()
    if wrong:
        raise BadInput(
            f"a sample has an embedding of {wrong[0]} numbers where {width} were needed; score all shards again"
        )
    return np.asarray(column.flatten(), np.float32).reshape(len(column), width)
