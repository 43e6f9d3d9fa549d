"""scripts/captions.py from towers to its table, in a few steps."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from scripts import captions


@pytest.mark.slow
def test_a_quick_run_ends_in_a_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["captions", str(tmp_path / "out"), "--quick"])
    captions.main()
    table = (tmp_path / "out" / "table.md").read_text()
    assert table.count("| objects | ") == 2
    assert "silc_c/teacher" in table
    assert "without images" in table
    capsys.readouterr()
    captions.main()
    assert "train: decoder begins" not in capsys.readouterr().out  # what is there is not done again


def test_real_studies_need_their_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["captions", str(tmp_path / "out")])
    with pytest.raises(SystemExit):
        captions.main()
