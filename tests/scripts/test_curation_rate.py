"""The comparison of Ray with the pool: its shards, and what it concludes."""

from __future__ import annotations

import importlib
import os
from pathlib import Path
from types import ModuleType

import pytest

from silc.data.shards import ShardPairs

SCRIPTS = Path(__file__).parents[2] / "scripts"


@pytest.fixture
def rate(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(SCRIPTS))
    return importlib.import_module("curation_rate")


def test_shards_have_pairs_of_their_own_and_are_made_once(rate: ModuleType, tmp_path: Path) -> None:
    rate.make_shards(tmp_path, 2, 3)
    times = [path.stat().st_mtime_ns for path in sorted(tmp_path.glob("*.tar"))]
    rate.make_shards(tmp_path, 3, 3)
    paths = sorted(tmp_path.glob("*"))
    assert [path.name for path in paths] == ["00000.tar", "00001.tar", "00002.tar"]
    assert [path.stat().st_mtime_ns for path in paths[:2]] == times
    pairs = ShardPairs(paths)
    assert len({pairs[index].pixels.tobytes() for index in range(len(pairs))}) == len(pairs) == 9


def test_what_is_concluded(rate: ModuleType) -> None:
    runs = {name: [rate.Run(each, 10**8, 2 * 10**8) for each in rates] for name, rates in
            (("pool", (10.0, 30.0, 20.0)), ("ray", (17.0, 99.0, 1.0)))}  # fmt: skip
    assert rate.table(runs)[-1] == "Ray has 85% of the pool's: below the goal of 90%."
    assert "| pool | 10.0, 30.0, 20.0 | 20.0 | 100 | 200 |" in rate.table(runs)
    runs["ray"].append(rate.Run(19.0, 0, 0))
    assert rate.table(runs)[-1] == "Ray has 90% of the pool's: the goal of 90%."
    assert rate.resident(os.getpid()) > 10**7
