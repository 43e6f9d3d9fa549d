"""The order is a permutation, pure, and local."""

from __future__ import annotations

import numpy as np
import pytest

from silc.data.order import Order

BLOCKS = np.array([7, 3, 9, 5, 11, 1, 4])  # 40 samples


@pytest.mark.parametrize("shuffle_shards", [1, 2, 3, 7, 64])
def test_every_epoch_visits_every_sample_once(shuffle_shards: int) -> None:
    order = Order(BLOCKS, 0, shuffle_shards)
    epochs = [order.indices(epoch, 0, 40) for epoch in range(3)]
    for visits in epochs:
        assert np.array_equal(np.sort(visits), np.arange(40))
        assert not np.array_equal(visits, np.arange(40))
    assert not np.array_equal(epochs[0], epochs[1])


def test_a_position_means_the_same_however_it_is_reached() -> None:
    order = Order(BLOCKS, 5, 2)
    whole = {epoch: order.indices(epoch, 0, 40) for epoch in (0, 1)}
    jumps = np.random.default_rng(0)
    for _ in range(200):
        epoch, (start, stop) = int(jumps.integers(2)), sorted(jumps.integers(0, 41, 2))
        assert np.array_equal(order.indices(epoch, start, stop), whole[epoch][start:stop])
        assert np.array_equal(Order(BLOCKS, 5, 2).indices(epoch, start, stop), whole[epoch][start:stop])


def test_seeds_give_other_orders() -> None:
    assert not np.array_equal(Order(BLOCKS, 0, 64).indices(0, 0, 40), Order(BLOCKS, 1, 64).indices(0, 0, 40))


def test_only_a_group_of_shards_is_open_at_a_time() -> None:
    blocks = np.full(12, 10)
    visits = Order(blocks, 0, 3).indices(0, 0, 120) // 10  # which shard
    groups = visits.reshape(4, 30)
    assert all(len(set(group)) == 3 for group in groups)
    assert all(len(set(group[:10])) > 1 for group in groups)  # mixed, not one shard after the other


def test_positions_are_uniform_over_epochs() -> None:
    """Mean position of each of 20 samples over 2,000 epochs: 9.5 with a standard error of 0.13."""
    order = Order(np.full(4, 5), 0, 4)
    positions = np.array([np.argsort(order.indices(epoch, 0, 20)) for epoch in range(2000)])
    assert np.abs(positions.mean(axis=0) - 9.5).max() < 0.6


def test_positions_beyond_the_epoch_are_an_error() -> None:
    with pytest.raises(IndexError):
        Order(BLOCKS, 0, 2).indices(0, 30, 41)
    assert len(Order(BLOCKS, 0, 2).indices(0, 40, 40)) == 0
