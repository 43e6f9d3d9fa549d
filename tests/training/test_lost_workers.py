"""A run whose loader worker dies, hangs or keeps it waiting: what was learnt is saved, and the next one goes on."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from silc import checkpoint
from silc.config import Config
from silc.data.scenes import ScenePairs
from silc.data.workers import LostWorker
from silc.errors import Preempted
from silc.pretraining import run
from tests.test_run import assert_same, weights


def test_it_is_saved_and_goes_on_to_the_same_end(
    small: Callable[..., Config], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = small("siglip", duration="5 steps", save_every="never", out=tmp_path / "whole")
    run.train(whole)
    config = replace(whole, out=str(tmp_path / "cut"), data=replace(whole.data, workers=1), resume="auto")
    draw, main = ScenePairs.__getitem__, os.getpid()
    reads = [0]

    def harmed(harm: Callable[[], object], after: int) -> Callable[..., object]:
        def read(self: ScenePairs, index: int) -> object:
            reads[0] += os.getpid() != main
            if reads[0] > after:
                harm()
            return draw(self, index)

        return read

    monkeypatch.setattr(ScenePairs, "__getitem__", harmed(lambda: os.kill(os.getpid(), signal.SIGKILL), 40))
    with pytest.raises(LostWorker, match=r"scene \d+, was killed \(SIGKILL\).*; saved step [12]; `--resume auto`"):
        run.train(config)
    assert len(checkpoint.find(tmp_path / "cut" / "checkpoints")) == 1

    def hang() -> None:
        os.kill(main, signal.SIGTERM)
        time.sleep(1000)

    monkeypatch.setattr(ScenePairs, "__getitem__", harmed(hang, 0))
    with pytest.raises(Preempted, match=r"SIGTERM asked to stop while no batch came; saved step [12]"):
        run.train(config)

    monkeypatch.undo()
    run.train(config)
    assert_same(weights(tmp_path / "cut"), weights(tmp_path / "whole"))
