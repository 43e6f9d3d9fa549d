"""The order of samples: a pure function of (seed, epoch, position).

The shards are permuted and split into groups of `shuffle_shards`; the samples of each group are then permuted. This is
close to a full shuffle, but reads from only a few files at a time. It does not depend on workers or ranks.
"""

from __future__ import annotations

import numpy as np

from silc.data.streams import stream


class Order:
    """The order of samples: each epoch visits every sample once. Only one group's permutation is in memory."""

    def __init__(self, blocks: np.ndarray, seed: int, shuffle_shards: int) -> None:
        self.blocks = np.asarray(blocks, dtype=np.int64)  # [S] samples per shard
        self.seed = seed
        self.shuffle_shards = shuffle_shards
        self._starts = np.cumsum(self.blocks) - self.blocks  # [S] first sample of each shard
        self._epoch = self._group = -1
        self._shards = self._ends = self._members = np.empty(0, dtype=np.int64)

    def __len__(self) -> int:
        return int(self.blocks.sum())

    def indices(self, epoch: int, start: int, stop: int) -> np.ndarray:
        """Numbers of the samples at positions [start, stop) of an epoch, int64 [stop - start]."""
        if not 0 <= start <= stop <= len(self):
            raise IndexError(f"positions {start} to {stop} of an epoch of {len(self)}")
        self._enter_epoch(epoch)
        parts = [np.empty(0, dtype=np.int64)]
        while start < stop:
            group = int(np.searchsorted(self._ends, start, side="right"))
            self._enter_group(group)
            end = int(self._ends[group])
            first = end - len(self._members)
            parts.append(self._members[start - first : min(stop, end) - first])
            start = min(stop, end)
        return np.concatenate(parts)

    def _enter_epoch(self, epoch: int) -> None:
        if epoch == self._epoch:
            return
        self._shards = stream("shards", self.seed, epoch).permutation(len(self.blocks))
        cumulative = np.cumsum(self.blocks[self._shards])
        last_of_group = np.arange(self.shuffle_shards, len(cumulative) + self.shuffle_shards, self.shuffle_shards) - 1
        self._ends = cumulative[np.minimum(last_of_group, len(cumulative) - 1)]  # position after each group
        self._epoch, self._group = epoch, -1

    def _enter_group(self, group: int) -> None:
        if group == self._group:
            return
        shards = self._shards[group * self.shuffle_shards : (group + 1) * self.shuffle_shards]
        members = np.concatenate([self._starts[shard] + np.arange(self.blocks[shard]) for shard in shards])
        self._members = stream("samples", self.seed, self._epoch, group).permutation(members)
        self._group = group
