"""A subset tells a plan how many pairs an epoch has."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from silc.cli import main
from silc.data.uids import UID


def test_an_epoch_is_as_long_as_the_subset(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = np.zeros(1000, UID)
    found["f1"] = np.arange(1000)
    np.save(tmp_path / "s.npy", found)
    plan = ["plan", "clip-tiny", "--gpus", "1", "--train.duration", "2 epochs"]
    assert main([*plan, "--pairs", "1000"]) == 0
    told = capsys.readouterr().out
    assert main([*plan, "--data.subset", str(tmp_path / "s.npy")]) == 0
    assert capsys.readouterr().out == told
    assert "1,792 examples" in told  # 7 whole batches an epoch
