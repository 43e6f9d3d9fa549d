"""The study of the second stage: what it calls a right caption, and that it runs from end to end."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from silc.data.config import ObjectsConfig
from silc.data.objects import captions, content, lay_out

SCRIPTS = Path(__file__).parents[2] / "scripts"


@pytest.fixture
def study(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(SCRIPTS))
    return importlib.import_module("second_stage")


def test_a_caption_is_right_if_it_tells_all_and_nothing_else(study: ModuleType) -> None:
    config = ObjectsConfig()
    told_less = 0
    for number in range(200):
        layout = lay_out((0, 0, number), config)
        right = study.right_captions(layout)
        assert right.issuperset(captions(layout, (0, 0, number), 0.0))
        wrong = set(captions(layout, (0, 0, number), 1.0)) - right
        assert len(wrong) >= 2  # another name may be the same one
        told_less += any(" on " not in caption for caption in wrong)
        other = lay_out((0, 0, number + 1), config)
        assert content(other) == content(layout) or not right & study.right_captions(other)
    assert told_less


@pytest.mark.slow
def test_the_study_runs(
    study: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """At its quick size: arms have as many steps; precision and recall are those of a loop."""
    for name in ("duckdb", "pyarrow", "py3langid"):
        pytest.importorskip(name)
    monkeypatch.setattr(sys, "argv", ["second_stage.py", str(tmp_path), "--quick", "--arms", "all", "selected"])
    study.main()
    said = capsys.readouterr().out
    right = json.loads((tmp_path / "pool" / "seed-0" / "right.json").read_text())
    chosen = np.load(tmp_path / "selected" / "seed-0.npy")["f1"].tolist()
    hits = sum(right[number] for number in chosen)
    assert len(right) == 600 > len(chosen) >= 181
    assert f"selected {100 * hits / len(chosen):.1f} %, which are {100 * hits / sum(right):.1f} %" in said
    assert "| + selected pairs | teacher | 1 |" in said
    assert "reading 181 pairs" in said
    last = [(tmp_path / arm / "seed-0" / "checkpoints" / "latest").resolve().name for arm in ("all", "selected")]
    assert last[0] == last[1] == "step-00000002"
