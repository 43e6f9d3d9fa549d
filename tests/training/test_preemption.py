"""Asked to stop: all ranks leave together, with everything saved; real process groups are asked in scripts/drill/."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from silc import cli
from silc.config import Config
from silc.distributed import World
from silc.errors import Preempted
from silc.eval import suite
from silc.objective import SilcObjective
from silc.pretraining import run
from silc.training.log import history
from silc.training.preemption import Interruptible, Preemption
from tests.test_run import assert_same, curve, weights


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_is_noted_within_and_ends_the_process_outside(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with Preemption() as preemption:
        assert not preemption.asked()
        os.kill(os.getpid(), number)
        assert preemption.name == number.name
    assert signal.getsignal(number) is before


def test_the_first_ctrl_c_is_noted_and_the_second_leaves_at_once(capfd: pytest.CaptureFixture[str]) -> None:
    before = signal.getsignal(signal.SIGINT)
    with Preemption() as preemption:
        os.kill(os.getpid(), signal.SIGINT)
        assert (preemption.name, preemption.exit_code) == ("SIGINT", 130)
        assert "press Ctrl-C again to leave at once" in capfd.readouterr().err
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.parametrize(
    ("save_every", "left"), [("never", "no checkpoint yet"), ("1 steps", "goes on from .*0000000[12]")]
)
def test_leaving_at_once_promises_only_the_checkpoint_that_is_there(
    small: Callable[..., Config], save_every: str, left: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps, after_step = [0], SilcObjective.after_step

    def interrupted_step(*args: object) -> None:
        after_step(*args)  # type: ignore[arg-type]
        steps[0] += 1
        if steps[0] == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(SilcObjective, "after_step", interrupted_step)
    with pytest.raises(KeyboardInterrupt, match=left):
        run.train(small("clip_views_ema", duration="4 steps", save_every=save_every, out=tmp_path / "run"))


def test_a_thread_trains_without_hearing_signals() -> None:
    heard: list[bool] = []

    def train() -> None:
        with Preemption() as preemption:
            heard.append(preemption.asked())

    thread = threading.Thread(target=train)
    thread.start()
    thread.join()
    assert heard == [False]


@pytest.mark.parametrize(("when", "number"), [("at a step", signal.SIGINT), ("in an evaluation", signal.SIGTERM)])
def test_asked_to_stop_and_resumed_equals_uninterrupted(
    small: Callable[..., Config], when: str, number: signal.Signals, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = small("silc_c", duration="7 steps", save_every="3 steps", held_out=8, out=tmp_path / "whole")
    config = replace(config, model=replace(config.model, text=replace(config.model.text, length=16)))
    run.train(config)
    cut, steps, evaluate = replace(config, out=str(tmp_path / "cut")), [0], suite.run
    after_step = SilcObjective.after_step

    def signalled_step(*args: object) -> None:
        after_step(*args)  # type: ignore[arg-type]
        steps[0] += 1
        if when == "at a step" and steps[0] == 5:
            os.kill(os.getpid(), number)

    def signalled_evaluation(*args: object, **kwargs: object) -> object:
        if when == "in an evaluation" and steps[0] == 7:
            os.kill(os.getpid(), number)
        return evaluate(*args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(SilcObjective, "after_step", signalled_step)
    monkeypatch.setattr(suite, "run", signalled_evaluation)
    stopped = 6 if when == "at a step" else 7  # the step it is in is agreed already
    with pytest.raises(Preempted, match=f"{number.name} asked to stop: saved step {stopped} of 7"):
        run.train(cut)
    assert history(tmp_path / "cut")[-1]["step"] == stopped
    monkeypatch.undo()
    run.train(replace(cut, resume="auto"))
    assert curve(tmp_path / "cut") == curve(tmp_path / "whole")
    assert_same(weights(tmp_path / "cut"), weights(tmp_path / "whole"))


@pytest.mark.parametrize(
    ("stop", "code", "said"),
    [
        (Preempted("SIGTERM asked to stop: saved step 3 of 9"), 143, "SIGTERM asked to stop: saved step 3 of 9"),
        (Preempted("SIGINT asked to stop: saved", exit_code=130), 130, "SIGINT asked to stop: saved"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (KeyboardInterrupt("out/run holds no checkpoint yet"), 130, "interrupted; out/run holds no checkpoint yet"),
    ],
)
def test_the_command_says_so_and_exits_with_its_code(
    stop: BaseException, code: int, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stopped(args: object) -> int:
        raise stop

    monkeypatch.setattr(cli, "_dispatch", stopped)
    assert cli.main([]) == code
    assert capsys.readouterr().err == f"silc: {said}\n"


# (rank, number of its batch) that is asked; batches are 3 on rank 0 and 2 on rank 1. None: nobody is.
ASKED = [(0, 1), (1, 0), (0, 2), (1, 1), None]


def test_ranks_leave_an_evaluation_together_wherever_one_is_asked(tmp_path: Path) -> None:
    """Also where one was asked in its last batch and the other has done all of its own."""
    mp.start_processes(_rank, args=(str(tmp_path),), nprocs=2, start_method="forkserver")
    for rank in range(2):
        left = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        assert left == [True, True, True, True, False], f"rank {rank}"


def _rank(rank: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    left = []
    for asked in ASKED:
        preemption = Preemption()
        world = Interruptible(rank, 2, asked=preemption.asked)
        try:
            for number in range(3 - rank):
                if asked == (rank, number):
                    preemption.name = "SIGTERM"
                world.heed("task", number, 3)
            assert world.collect(rank) == [0, 1]
            world.collect(None)
            left.append(False)
        except Preempted:
            left.append(True)
        assert World(rank, 2).collect(rank) == [0, 1]  # the ranks are where the other is
    torch.save(left, f"{folder}/{rank}.pt")
    dist.destroy_process_group()
