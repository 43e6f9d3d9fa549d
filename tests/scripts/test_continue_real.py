"""The continuation's table: control before treatment, nothing said of what lies inside the spread."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import pytest

SCRIPTS = Path(__file__).parents[2] / "scripts"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(SCRIPTS))
    return importlib.import_module("continue_real")


def test_table_and_sentences(script: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = {("before", "student"): [0.02], ("contrastive", "student"): [0.02, 0.03, 0.04]}
    runs |= {("late", "student"): [0.035, 0.04, 0.05], ("late", "teacher"): [0.05, 0.06, 0.07]}
    for (name, weights), values in runs.items():
        for seed, value in enumerate(values):
            file = tmp_path / name / f"seed-{seed}" / "scores.json"
            file.parent.mkdir(parents=True, exist_ok=True)
            known = json.loads(file.read_text()) if file.is_file() else []
            record = {"dataset": "voc2012", "weights": weights, "metrics": {"miou": value}, "chance": {"miou": 0.01}}
            file.write_text(json.dumps([*known, record]))
    (tmp_path / "results.md").write_text(f"# Results\n\n{script.START}\n{script.END}\n\nAfter.\n")
    monkeypatch.setattr("sys.argv", ["continue_real.py", str(tmp_path), "--docs", str(tmp_path)])
    script.main()
    text = (tmp_path / "results.md").read_text()
    assert text.startswith("# Results\n")
    assert text.endswith("After.\n")
    assert "| before | student | 1 |  |  |  |  |  | 2.0 |  |  |" in text
    assert "alone (control), student, against before: VOC mIoU +1.0 (one seed says nothing)." in text
    assert "late SILC, student, against + contrastive alone (control): VOC mIoU +1.2 (inside the spread)." in text
    assert "late SILC, teacher, against + contrastive alone (control): VOC mIoU +3.0 (outside the spread)." in text


def test_nothing_scored(script: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["continue_real.py", str(tmp_path)])
    with pytest.raises(SystemExit, match="holds no scored run"):
        script.main()
