"""A short failure drill: real processes, hurt from outside; `make drill` is the whole of it."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

import pytest

from scripts.nginx import missing

SCRIPT = Path(__file__).parents[2] / "scripts" / "drill.py"


@pytest.fixture(scope="module")
def drill():
    spec = importlib.util.spec_from_file_location("drill", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules["drill"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["drill"]


SLOW = ("preempt", "reshard", "asynchronous", "corruption", "remote")
SCENARIOS = ("resume", "saves_of_two", *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW))


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_nothing_is_lost(drill, scenario, tmp_path):
    if scenario == "remote" and (absent := missing()):
        pytest.skip(absent)
    rows = drill.drill(tmp_path / "drill", short=True, only=scenario)
    assert rows
    assert all(row.tries > 0 and row.lost == 0 for row in rows), rows


@pytest.mark.slow
@pytest.mark.parametrize("scenario", ["disk", "numbers", "collapse"])
def test_nothing_is_lost_to_disks_and_numbers(drill, scenario, tmp_path):
    if scenario != "collapse" and os.geteuid():
        pytest.skip("mounting, immutable folders and another process's memory need root")
    rows = drill.drill(tmp_path / "drill", short=True, only=scenario)
    assert all(row.lost == 0 for row in rows), rows


@pytest.mark.slow
@pytest.mark.parametrize("scenario", ["hang", "nodes", "elastic"])
def test_nothing_is_lost_to_nodes(drill, scenario, tmp_path):
    rows = drill.drill(tmp_path / "drill", short=True, only=scenario)
    assert all(row.lost == 0 for row in rows), rows


def test_an_unknown_scenario_is_named(drill, tmp_path):
    with pytest.raises(SystemExit, match="no scenario sves; there are resume, saves"):
        drill.drill(tmp_path, short=True, only="sves")
