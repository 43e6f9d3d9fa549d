"""Pairs held out: a fixed draw, and a source that has all the others and none of these."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
import pytest

from silc.batch import Broken
from silc.data.pairs import Source
from silc.data.split import Subset, draw_held_out
from silc.errors import BadInput


class Numbers(Source[Any]):
    """`Pairs` that are their own numbers, in uneven blocks."""

    def __init__(self, blocks: list[int]) -> None:
        self.blocks, self.fingerprint, self.faults = (
            np.array(blocks),
            "abc",
            [Broken("shard.tar", "", "cut_shard", "cut")],
        )

    def __len__(self) -> int:
        return int(self.blocks.sum())

    def __getitem__(self, index: int) -> Any:
        return index

    def captions(self, limit: int) -> Any:
        return iter(["a"])


@pytest.mark.parametrize("held_out", [[], [0], [0, 1, 2, 3], [4, 9], [3, 4, 5, 6, 7, 8, 9]])
def test_without_has_all_the_others_in_order(held_out: list[int]) -> None:
    """Blocks 4, 0, 3 and 3, also where one of them is lost as a whole."""
    pairs = Numbers([4, 0, 3, 3])
    left = Subset(pairs, np.array(held_out, dtype=np.int64))
    others = [number for number in range(10) if number not in held_out]
    assert [left[index] for index in range(len(left))] == others
    assert left.contents == {}
    ends = np.cumsum(left.blocks)
    shard = lambda number: int(np.searchsorted(np.cumsum(pairs.blocks), number, side="right"))  # noqa: E731
    assert [int(np.searchsorted(ends, index, side="right")) for index in range(len(left))] == [*map(shard, others)]
    assert left.blocks.sum() == len(left) == 10 - len(held_out)
    with pytest.raises(IndexError):
        left[len(left)]


def test_a_subset_is_known_by_its_numbers() -> None:
    pairs: Any = Numbers([4, 0, 3, 3])
    subsets = [np.array(numbers) for num in range(4) for numbers in combinations(range(10), num)]
    fingerprints = [Subset(pairs, numbers).fingerprint for numbers in subsets]
    assert len(set(fingerprints)) == len(subsets) == 176
    assert all(fingerprint.startswith("abc-") for fingerprint in fingerprints)
    assert fingerprints[20] == Subset(pairs, subsets[20].astype(np.int32)).fingerprint
    # Before, the number of pairs held out was all that it told; what `draw_held_out` takes alone goes by that name too.
    former = {Subset(pairs, numbers).former_fingerprint for numbers in subsets} - set(fingerprints)
    assert former == {f"abc-{num}" for num in range(4)}
    assert Subset(pairs, draw_held_out(pairs, 3)).former_fingerprint == "abc-3"
    assert pairs.former_fingerprint == "abc"


def test_draw_is_fixed_sorted_and_spread() -> None:
    pairs: Any = Numbers([1000, 9000])
    numbers = draw_held_out(pairs, 500)
    assert np.array_equal(numbers, draw_held_out(pairs, 500))
    assert len(set(numbers.tolist())) == 500
    assert np.all(np.diff(numbers) > 0)
    assert 30 < (numbers < 1000).sum() < 70
    with pytest.raises(BadInput, match="held_out is 10000 of 10000 pairs"):
        draw_held_out(pairs, 10_000)
