"""Centroids of a pool's embeddings: k-means on a random sample, drawn by a hash of the uids."""

from __future__ import annotations

import numpy as np

from silc.curate.near import column_is_there, nearest_centroid, vectors
from silc.curate.scores import BATCH, ROW, Scores
from silc.errors import BadInput

USUAL, MOST = 256, 100_000
"""Defaults for the number of centroids: one per USUAL images, at most MOST (DataComp's number)."""
SEEN, SEEN_IN_ALL = 64, 1_000_000
"""Maximum number of images for k-means: per centroid, and in total. They are held in memory: 3 GB at width 768."""
ROUNDS = 10


def centroids_of(scores: Scores, column: str, num: int, *, seed: int) -> np.ndarray:
    """Centroids, float32 [K, D]; `num` 0 makes one for every `USUAL` images.

    Raises:
        BadInput: no row has an embedding, or there are fewer images than centroids.
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
    embeddings, filled = np.empty((min(seen, total), width), np.float32), 0
    for batch in scores.stream(sql):
        embeddings[filled : filled + len(batch)] = vectors(batch.column(0), width)
        filled += len(batch)
    return k_means(embeddings, num, seed=seed)


def k_means(embeddings: np.ndarray, num: int, *, seed: int) -> np.ndarray:
    """Unit-length centroids [num, D] of embeddings [n, D] by Lloyd's algorithm; nearest means the largest dot product.

    The embeddings are scaled to unit length in place. A centroid without images moves to the image that is farthest
    from its own centroid.
    """
    unit = embeddings
    unit /= np.maximum(np.linalg.norm(unit, axis=1, keepdims=True), 1e-12)
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
    """Dot product of each image with its centroid, [n]."""
    starts = range(0, len(unit), BATCH)
    blocks = [(unit[start : start + BATCH], nearest[start : start + BATCH]) for start in starts]
    return np.concatenate([(block * centroids[of]).sum(axis=1) for block, of in blocks])
