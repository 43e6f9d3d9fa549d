"""The benchmark's row of image-text losses, at sizes that take no time."""

from __future__ import annotations

import pytest
import torch

from benchmarks import contrastive
from benchmarks.suite import BenchConfig


def test_its_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contrastive, "SMALL", (16, 48))
    monkeypatch.setattr(contrastive, "_in_a_process_of_its_own", lambda kind: {"softmax": 99.0, "sigmoid": 101.0}[kind])
    rows = contrastive.contrastive(BenchConfig(device="cpu"))
    assert [(row.number, row.what.split()[0], row.unit, row.met) for row in rows] == [
        (5, "softmax", "MB", True),
        (5, "sigmoid", "MB", False),
    ]
    for row in rows:
        assert 0 < row.figures["largest relative error of a gradient at 48"] < 1e-5
        assert row.figures["time over plain at 16"] > 0


@pytest.mark.parametrize("kind", ["softmax", "sigmoid"])
def test_contenders_compute_the_same(kind: str) -> None:
    leaves = contrastive._inputs(24, 8, torch.device("cpu"))
    losses = [contenders[kind](*leaves) for contenders in (contrastive._OURS, contrastive._PLAIN)]
    torch.testing.assert_close(*losses, rtol=1e-6, atol=1e-6)
