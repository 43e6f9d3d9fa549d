"""Removal of near-duplicates within clusters, after SemDeDup (Abbas et al., 2023): if images of one cluster have a
cosine of at least a limit, only the first is kept.

Images are ordered by the score of their caption (best first, if there are scores), then by uid. An image is removed if
it is too near to an earlier image that is *kept*. So in a chain of neighbours not all are removed, and no two of the
kept images of a cluster are near.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from silc.curate.near import column_is_there, nearest_centroid, vectors
from silc.curate.scores import ROW
from silc.extras import needs

if TYPE_CHECKING:
    from collections.abc import Iterator

    from silc.curate.scores import Scores

TILE = 2048
"""Number of a cluster's images that are compared with earlier images at a time."""
BLOCK = 1 << 14
"""Number of earlier images in one such comparison."""


def distinct(scores: Scores, column: str, centroids: np.ndarray, cosine: float, order: str) -> str:
    """SQL condition: no earlier kept image of the cluster has this `cosine` or more; `order` is SQL."""
    pa = needs("choosing among scores", "pyarrow", "curate")
    there, width, table = column_is_there(scores, column), centroids.shape[1], "clustered"
    scores.con.execute(f"CREATE TABLE {table} ({ROW} BIGINT, cluster INTEGER)")
    for batch in scores.batches([ROW, column], there):
        clusters = nearest_centroid(vectors(batch.column(1), width), centroids).astype(np.int32)
        scores.con.register("found", pa.table({ROW: batch.column(0), "cluster": clusters}))
        scores.con.execute(f"INSERT INTO {table} SELECT * FROM found")
        scores.con.unregister("found")
    kept = scores.no_marks()
    for rows, embeddings in _clusters(scores, table, column, width, order):
        kept.add(rows[first_of_their_kind(embeddings, cosine)])
    scores.con.execute(f"DROP TABLE {table}")
    return scores.marked(kept)


def first_of_their_kind(embeddings: np.ndarray, cosine: float) -> np.ndarray:
    """Which of the embeddings [n, D] are kept, bool [n]: those with no earlier kept one at this cosine or more."""
    lengths = np.linalg.norm(embeddings, axis=1, keepdims=True)
    unit = embeddings / np.maximum(lengths, 1e-12)
    stays = np.ones(len(unit), bool)
    for start in range(0, len(unit), TILE):
        tile = unit[start : start + TILE]
        if start:
            kept = np.flatnonzero(stays[:start])
            for first in range(0, len(kept), BLOCK):
                others = unit[kept[first : first + BLOCK]]
                stays[start : start + TILE] &= ~(tile @ others.T >= cosine).any(axis=1)
        near = tile @ tile.T >= cosine
        for place in range(len(tile)):
            if stays[start + place]:
                stays[start + place + 1 : start + TILE] &= ~near[place, place + 1 :]
    return stays


def _clusters(
    scores: Scores, table: str, column: str, width: int, order: str
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(rows [n], embeddings [n, width]) of each cluster; `order` sorts the rows of a cluster."""
    ordered = (
        f"SELECT {table}.cluster, {ROW}, {scores.column(column)} FROM scored JOIN {table} USING ({ROW}) "
        f"ORDER BY {table}.cluster, {order}"
    )
    current, rows, parts = -1, list[np.ndarray](), list[np.ndarray]()
    for batch in scores.stream(ordered, 1 << 12):
        clusters, numbers = np.asarray(batch.column(0)), np.asarray(batch.column(1))
        embeddings = vectors(batch.column(2), width)
        for cluster in np.unique(clusters):
            if cluster != current and rows:
                yield np.concatenate(rows), np.concatenate(parts)
                rows, parts = [], []
            current = int(cluster)
            rows.append(numbers[clusters == cluster])
            parts.append(embeddings[clusters == cluster])
    if rows:
        yield np.concatenate(rows), np.concatenate(parts)
