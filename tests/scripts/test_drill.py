"""A short failure drill: real processes, hurt from outside; `make drill` is the whole of it."""

from __future__ import annotations

import os

import pytest

from scripts.drill.__main__ import drill
from scripts.nginx import missing

SCENARIOS = ("resume", "saves_of_two", "preempt", "reshard", "asynchronous", "corruption", "remote")


@pytest.mark.slow
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_nothing_is_lost(scenario, tmp_path):
    if scenario == "remote" and (absent := missing()):
        pytest.skip(absent)
    rows = drill(tmp_path / "drill", short=True, only=scenario)
    assert rows
    assert all(row.tries > 0 and row.lost == 0 for row in rows), rows


@pytest.mark.slow
@pytest.mark.parametrize("scenario", ["disk", "numbers", "collapse"])
def test_nothing_is_lost_to_disks_and_numbers(scenario, tmp_path):
    if scenario != "collapse" and os.geteuid():
        pytest.skip("mounting, immutable folders and another process's memory need root")
    rows = drill(tmp_path / "drill", short=True, only=scenario)
    assert all(row.lost == 0 for row in rows), rows


@pytest.mark.slow
@pytest.mark.parametrize("scenario", ["hang", "nodes", "elastic"])
def test_nothing_is_lost_to_nodes(scenario, tmp_path):
    rows = drill(tmp_path / "drill", short=True, only=scenario)
    assert all(row.lost == 0 for row in rows), rows


def test_an_unknown_scenario_is_named(tmp_path):
    with pytest.raises(SystemExit, match="no scenario sves; there are resume, saves"):
        drill(tmp_path, short=True, only="sves")
