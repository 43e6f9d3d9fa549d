"""Pictures that are kept."""

from __future__ import annotations

import pytest

from silc.serve.pictures import NoPicture, Pictures, name_of
from tests.serve.conftest import picture


def test_those_used_longest_ago_go_first() -> None:
    pictures = Pictures(3 * 4 * 40 * 24)
    pictures.pin("example", picture())
    for name in "abc":
        pictures.keep(name, picture())
    assert pictures["a"].size == (40, 24)
    pictures.keep("d", picture())
    assert [name in pictures for name in ("example", "a", "b", "c", "d")] == [True, True, False, True, True]
    with pytest.raises(NoPicture, match="send it again"):
        pictures["b"]
    for number in range(50):
        pictures.keep(str(number), picture())
    assert len(pictures) == 3
    assert pictures.bytes <= pictures.most


def test_one_that_is_larger_than_all_of_it_is_kept_alone() -> None:
    pictures = Pictures(10)
    pictures.keep("a", picture())
    pictures.keep("b", picture())
    assert "b" in pictures
    assert len(pictures) == 1


def test_a_name_is_of_all_bytes() -> None:
    assert name_of(b"a") != name_of(b"b")
    assert len(name_of(b"a")) == 32
