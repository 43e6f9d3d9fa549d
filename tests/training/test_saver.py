"""Saving while training goes on: what is written is the moment it was asked for, and nothing grows."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from scripts.drill.costs import blocked_and_whole
from silc import checkpoint
from silc.config import Config
from silc.distributed import World
from silc.errors import BadInput
from silc.pretraining import run
from silc.training.log import history
from silc.training.saver import Saver


def parts_of(megabytes: int) -> dict[str, dict[str, torch.Tensor]]:
    return {
        part: {str(i): torch.full((megabytes, 1 << 16), float(i)) for i in range(2)} for part in ("model", "optimizer")
    }


def resident() -> int:
    """Megabytes of this process in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 >> 20


def test_what_is_written_is_what_was_there(tmp_path: Path) -> None:
    """Training overwrites every tensor in place at once."""
    saver, parts = Saver(tmp_path, 3, World()), parts_of(1)
    for step in range(3):
        for tensors in parts.values():
            for tensor in tensors.values():
                tensor.fill_(step)
        saver.save(step, parts, {"step": step})
        for tensors in parts.values():
            for tensor in tensors.values():
                tensor.fill_(-1.0)
    saver.finish()
    for step, path in enumerate(reversed(checkpoint.find(tmp_path))):
        saved = checkpoint.read(path)
        assert saved.state == {"step": step}
        assert all((tensor == step).all() for tensors in saved.state_dicts.values() for tensor in tensors.values())
    assert step == 2


def test_latest_moves_when_the_bytes_are_durable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saver = Saver(tmp_path, 3, World())
    saver.save(1, parts_of(1), {})
    saver.finish()
    flushing, go_on = threading.Event(), threading.Event()
    flush = checkpoint.flush

    def slow_disk(path: Path) -> None:
        flushing.set()
        assert go_on.wait(10)
        flush(path)

    monkeypatch.setattr(checkpoint, "flush", slow_disk)
    saver.save(2, parts_of(1), {})
    assert flushing.wait(10)
    assert (tmp_path / "latest").resolve().name == "step-00000001"
    assert [path.name for path in checkpoint.find(tmp_path)] == ["step-00000001"]
    go_on.set()
    saver.finish()
    assert (tmp_path / "latest").resolve().name == "step-00000002"


def test_training_waits_for_less_than_a_tenth_of_a_save(tmp_path: Path) -> None:
    """Medians of five, of 64 MB."""
    blocked, whole = blocked_and_whole(tmp_path, parts_of(64), 5)
    assert blocked < 0.1 * whole


def test_fifty_in_a_row_take_the_memory_of_three(tmp_path: Path) -> None:
    parts, saver = parts_of(8), Saver(tmp_path, 1, World())
    for step in range(50):
        saver.save(step, parts, {})
        if step == 3:
            early = resident()
    saver.finish()
    assert resident() - early < 16  # one of the copies in vain would be 1500
    assert [path.name for path in checkpoint.find(tmp_path)] == ["step-00000049"]


def test_a_step_is_saved_once(tmp_path: Path) -> None:
    saver = Saver(tmp_path, 3, World())
    saver.save(4, {"model": {"w": torch.zeros(1)}}, {})
    saver.save(4, {"model": {"w": torch.ones(1)}}, {})
    saver.finish()
    assert checkpoint.read(tmp_path / "step-00000004").state_dicts["model"]["w"] == 0


def test_a_failure_behind_ends_the_run_in_one_line_at_its_next_step(
    small: Callable[..., Config], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not at the next save; the checkpoint before stays as it was."""
    flush, folder = checkpoint.flush, tmp_path / "run/checkpoints"

    def full_disk(path: Path) -> None:
        if "step-00000060" in str(path):
            raise OSError(28, "No space left on device")
        flush(path)

    monkeypatch.setattr(checkpoint, "flush", full_disk)
    config = small("clip", duration="5000 steps", save_every="30 steps", out=tmp_path / "run")
    with pytest.raises(BadInput, match=r"cannot write the checkpoint .*step-00000060: .*No space left.*intact"):
        run.train(config)
    assert [path.name for path in checkpoint.find(folder)] == ["step-00000030"]
    checkpoint.read(folder / "step-00000030")
    assert history(tmp_path / "run")[-1]["step"] < 90


def test_what_comes_after_a_save_does_not_cost_it(
    small: Callable[..., Config], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An evaluation that stumbles while the checkpoint is still being written, on a slow disk."""
    write = checkpoint.write

    def slowly(*args: Any, **settings: Any) -> Path:
        time.sleep(0.5)
        return write(*args, **settings)

    def stumble(*_: Any, **__: Any) -> None:
        raise BadInput("no such file")

    monkeypatch.setattr(checkpoint, "write", slowly)
    monkeypatch.setattr(run.checks, "asked_for", lambda _: None)
    monkeypatch.setattr(run.suite, "tasks", lambda *_, **__: [])
    monkeypatch.setattr(run.suite, "run", stumble)
    config = small("clip", duration="4 steps", save_every="2 steps", eval_every="2 steps", out=tmp_path / "run")
    with pytest.raises(BadInput, match="no such file"):
        run.train(config)
    assert [path.name for path in checkpoint.find(tmp_path / "run/checkpoints")] == ["step-00000002"]
