"""The table of decoders: its arithmetic, and that every decoder is in it."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from silc.data.scenes import write_sets
from silc.eval.decoders import DECODERS

SCRIPTS = Path(__file__).parents[2] / "scripts"


@pytest.fixture
def decoders(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(SCRIPTS))
    return importlib.import_module("decoders")


def test_means_spreads_and_paired_differences(decoders: ModuleType) -> None:
    found = {
        ("cosine", "a-zs-seg"): {"0": 10.0, "1": 20.0, "2": 30.0},
        ("scga", "a-zs-seg"): {"0": 11.0, "1": 23.0, "2": 29.0},
        ("chance", "a-zs-seg"): {"0": 2.5, "1": 2.5, "2": 2.5},
    }
    assert decoders.table(found) == [
        "| decoder | runs | a-zs-seg |",
        "| --- | ---: | ---: |",
        "| cosine | 3 | 20.0 ± 10.0 |",
        "| scga | 3 | 21.0 ± 9.2 (+1.0, 2 of 3 up) |",
        "| chance | | 2.5 |",
    ]


def test_every_decoder_is_scored(
    decoders: ModuleType,
    finished: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = finished("silc_c")
    write_sets(tmp_path, size=24, seed=0, num_retrieval=4, num_segmentation=2, per_class=1)
    monkeypatch.setattr("sys.argv", ["decoders.py", str(run), "--root", str(tmp_path), "--second", str(run)])
    decoders.main()
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    assert [line.split(" | ")[0][2:] for line in lines] == ["decoder", "---", *DECODERS, "chance"]
    for line in lines[2:-1]:
        assert 0 <= float(line.split(" | ")[2].split()[0]) <= 100
