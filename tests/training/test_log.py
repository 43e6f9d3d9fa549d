"""What a person sees of a run: a bar that moves with every step, or lines."""

from __future__ import annotations

from pathlib import Path

import pytest

from silc.training import log as logs
from silc.training.log import Log, time_left

RECORD = {"step": 2, "lr": 1e-3, "samples_per_s": 32.0, "loss/contrastive": 2.5}


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0, ""), (7.4, "0m07s left"), (187, "3m07s left"), (7500, "2h05m left"), (3599.6, "1h00m left")],
)
def test_a_time_in_words(seconds: float, words: str) -> None:
    assert time_left(seconds) == words


def test_the_bar_moves_with_every_step_and_shows_time_left_loss_and_rate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # a terminal, to rich
    with Log(tmp_path, start=0, total=9) as log:
        log.tick(1, eta_seconds=0)
        task = log.bar.tasks[0]
        assert (task.completed, task.fields["left"]) == (1, "")
        log.step(RECORD, eta_seconds=70)
        assert (task.completed, task.fields["left"]) == (2, "1m10s left")
        assert task.fields["losses"] == "contrastive 2.500  lr 1.00e-03"
        log.tick(3, eta_seconds=60)
        assert (task.completed, task.fields["left"]) == (3, "1m00s left")
        assert task.fields["losses"] == "contrastive 2.500  lr 1.00e-03"


def test_without_a_terminal_a_line_says_now_and_then_that_it_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = [0.0]
    monkeypatch.setattr(logs.time, "monotonic", lambda: clock[0])
    with Log(tmp_path, start=0, total=9) as log:
        for step in range(1, 8):
            clock[0] += 4.0
            log.tick(step, eta_seconds=0)
        log.step(RECORD | {"step": 7}, eta_seconds=9)
    lines = capsys.readouterr().out.splitlines()
    assert lines == ["step 3/9", "step 6/9", "step 7/9  contrastive 2.500  lr 1.00e-03  32 pairs/s  0m09s left"]
