"""Centroids of a pool's embeddings: k-means over a sample of them, which is drawn by their uids."""

from __future__ import annotations

import numpy as np

from silc.curate.near import column_is_there, nearest_centroid, vectors
from silc.curate.scores import BATCH, ROW, Scores
from silc.errors import BadInput

USUAL, MOST = 256, 100_000
"""Images a centroid has about where nobody says how many there are to be, and the most there are: DataComp's number."""
SEEN, SEEN_IN_ALL = 64, 1_000_000
"""Images that k-means looks at, at most: for each centroid, and in all, as they are in memory: 3 GB at width 768."""
ROUNDS = 10


def centroids_of(scores: Scores, column: str, num: int, *, seed: int) -> np.ndarray:
    """Float32 [K, D]; `num` 0 takes one for every `USUAL` images.

    Raises:
        BadInput: no row has an embedding, or there are fewer than centroids.
    """
    there = column_is_there(scores, column)
    (total,) = scores.one(f"SELECT count(*) FROM scored WHERE {there}")
    num = num or int(np.clip(total // USUAL, 1, MOST))
    if total < num:
        raise BadInput(f"{total:,} images have an embedding in {column}, fewer than {num:,} centroids; ask for fewer")
    seen = max(num, min(num * SEEN, SEEN_IN_ALL))
    drawn = f"SELECT {ROW} FROM scored WHERE {there} ORDER BY hash(uid, {seed}), {ROW} LIMIT {seen}"
    sql = f"SELECT {scores.column(column)} FROM scored WHERE {ROW} IN ({drawn}) ORDER BY {ROW}"
    (width,) = scores.one(f"SELECT len({scores.column(column)}) FROM scored WHERE {there} LIMIT 1")
    parts = [vectors(batch.column(0), width) for batch in scores.stream(sql)]
    return k_means(np.concatenate(parts), num, seed=seed)


def k_means(embeddings: np.ndarray, num: int, *, seed: int) -> np.ndarray:
    """Centroids [num, D] of embeddings [n, D] by Lloyd's rounds, of unit length, nearest by product.

    A centroid that loses all its images takes the place of the image that is farthest from its own.
    """
    unit = embeddings / np.maximum(np.linalg.norm(embeddings, axis=1, keepdims=True), 1e-12)
    random = np.random.default_rng(seed)
    centroids = unit[np.sort(random.choice(len(unit), num, replace=False))]
    for _ in range(ROUNDS):
        nearest = nearest_centroid(unit, centroids)
        sums = np.zeros_like(centroids)
        np.add.at(sums, nearest, unit)
        empty = np.flatnonzero(np.bincount(nearest, minlength=num) == 0)
        if len(empty):
            far = np.argsort(_products(unit, centroids, nearest), kind="stable")[: len(empty)]
            sums[empty] = unit[far]
        centroids = sums / np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), 1e-12)
    return np.asarray(centroids, np.float32)


def _products(unit: np.ndarray, centroids: np.ndarray, nearest: np.ndarray) -> np.ndarray:
    """Of each image and its centroid, [n]."""
    starts = range(0, len(unit), BATCH)
    blocks = [(unit[start : start + BATCH], nearest[start : start + BATCH]) for start in starts]
    return np.concatenate([(block * centroids[of]).sum(axis=1) for block, of in blocks])
