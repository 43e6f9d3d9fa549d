"""The part `step` from end to end, at sizes that take seconds: which rows there are, and what stands in empty ones."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks import step
from benchmarks.suite import BenchConfig
from silc.config import Config
from silc.training.precision import DeviceSpeed


@pytest.fixture
def tiny(small: Callable[..., Config], monkeypatch: pytest.MonkeyPatch) -> None:
    precision = {True: "bf16", False: "float32"}
    monkeypatch.setattr(step.Setting, "recipe", lambda self, name: small(name, precision=precision[self.half]))
    monkeypatch.setattr(step.Setting, "__post_init__", lambda self: object.__setattr__(self, "size", 16), raising=False)


@pytest.mark.usefixtures("tiny")
def test_every_row_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("open_clip")
    monkeypatch.setattr(step, "speed_of", lambda device: DeviceSpeed("bf16", ("float32",), ""))
    rows = list(step.rows(BenchConfig(device="cpu", profile=str(tmp_path / "deep" / "step.txt"))))
    assert {row.number for row in rows} == {6, 7, 8, 9, 10, 11, 12}
    assert [row.number for row in rows if row.missing] == [10, 11]
    assert all(row.value > 0 for row in rows if not row.missing)
    assert sum("bf16" in row.what for row in rows) == 8
    assert "aten::mm" in (tmp_path / "deep" / "step.txt").read_text()


@pytest.mark.usefixtures("tiny")
def test_a_cpu_that_is_slow_at_bf16_is_spared_its_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each number says in one empty row why; nothing is run in bf16."""
    halves = []
    for name in ("in_parts", "side_by_side"):
        monkeypatch.setattr(step, name, lambda setting: halves.append(setting.half) or [])
    monkeypatch.setattr(step, "share_of_peak", lambda setting, *rest: halves.append(setting.half))
    monkeypatch.setattr(step, "speed_of", lambda device: DeviceSpeed("float32", ("bf16",), "0.02 times as fast"))
    rows = [row for row in step.rows(BenchConfig(device="cpu")) if row]
    assert halves == [False, False, False]
    assert [row.number for row in rows if row.missing == "0.02 times as fast"] == [6, 7, 8, 9, 12]


@pytest.mark.usefixtures("tiny")
def test_without_open_clip_its_rows_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "benchmarks.baselines.training", None)
    monkeypatch.delattr("benchmarks.baselines.training", raising=False)
    rows = step.side_by_side(step.Setting("cpu", "s16", 256, 6, 4, half=False, turns=1))
    assert [row.number for row in rows if "open_clip is not installed" in row.missing] == [7, 9, 9]
    assert [row.number for row in rows if not row.missing] == [8]
