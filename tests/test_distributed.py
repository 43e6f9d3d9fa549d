"""What ranks tell each other when some of them are lost or start anew."""

from __future__ import annotations

import os
import re
import signal
import threading
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from silc import cli, distributed
from silc.distributed import agree_on_attempt
from silc.errors import BadInput, LostRank
from tests.ranks import SERVER, environments

SHORT = timedelta(seconds=5)


def rank_of_a_group(place: dict[str, str], victim: int, sent: int, timeout: float, said: str) -> None:
    """A rank whose last fellow gets a signal in the middle; writes down after how long it gave up, and why."""
    os.environ |= place
    try:
        with distributed.join("cpu", timedelta(seconds=timeout)) as world:
            for _ in range(3):
                world.mean(torch.ones(1000))
            if world.rank == victim:
                os.kill(os.getpid(), sent)
            start = time.monotonic()
            world.mean(torch.ones(1000))
    except LostRank as error:
        Path(said).write_text(f"{time.monotonic() - start:.2f} {error}")
        os._exit(75)


@pytest.mark.parametrize(("ranks", "sent", "limit"), [(2, signal.SIGKILL, 2.0), (3, signal.SIGSTOP, 4.0)])
def test_a_lost_rank_ends_the_others_in_time_and_is_named(ranks: int, sent: int, limit: float, tmp_path: Path) -> None:
    """The last rank dies, or stops with a timeout of 2 s."""
    timeout = 2.0 if sent == signal.SIGSTOP else 60.0
    running = [
        SERVER.Process(target=rank_of_a_group, args=(place, ranks - 1, sent, timeout, str(tmp_path / str(rank))))
        for rank, place in enumerate(environments(ranks))
    ]
    for process in running:
        process.start()
    try:
        for rank, process in enumerate(running[:-1]):
            process.join(300)
            said = (tmp_path / str(rank)).read_text()
            taken, _, line = said.partition(" ")
            how = "in time" if sent == signal.SIGSTOP else "any more"
            assert line.startswith(f"rank {rank} gives up: rank {ranks - 1} did not answer {how};"), said
            assert process.exitcode == 75
            assert float(taken) < limit
    finally:
        for process in running:
            process.kill()
            process.join()


def agreed(store: dist.Store, ranks: list[int], size: int) -> list[str]:
    """What each of these ranks takes its attempt to be, started in this order."""
    names: dict[int, str] = {}

    def start(rank: int) -> None:
        names[rank] = agree_on_attempt(store, rank, size, SHORT)

    threads = [threading.Thread(target=start, args=(rank,)) for rank in ranks]
    for thread in threads:
        thread.start()
        time.sleep(0.05)
    for thread in threads:
        thread.join()
    return list(names.values())


@pytest.mark.parametrize("order", [[0, 1, 2], [2, 1, 0], [1, 0, 2]])
def test_every_attempt_has_a_name_of_its_own(order: list[int]) -> None:
    """Whoever comes first, and with what earlier attempts left in the store; also after a change of their number."""
    store, seen = dist.HashStore(), set()
    for size in (3, 3, 2, 1, 3):
        names = agreed(store, [rank for rank in order if rank < size], size)
        assert len(set(names)) == 1
        assert len(names) == size
        seen.add(names[0])
    assert len(seen) == 5


def test_an_attempt_that_died_half_way_is_not_joined() -> None:
    store = dist.HashStore()
    store.set("call/1", "rank 1 of a group whose rank 0 never came")
    assert len(set(agreed(store, [0, 2, 1], 3))) == 1
    with pytest.raises(LostRank, match="ranks 1, 2 did not start within 0 s"):
        agree_on_attempt(store, 0, 3, timedelta(seconds=0.2))  # those calls are of the dead
    with pytest.raises(LostRank, match="rank 0 did not start"):
        agree_on_attempt(store, 1, 3, timedelta(seconds=0.2))
    assert len(set(agreed(store, [1, 2, 0], 3))) == 1


def test_who_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributed, "GRACE", 0.2)
    store, timed_out = dist.HashStore(), RuntimeError("gloo: Timed out waiting 4000ms")
    for alive in (0, 2):
        store.set(str(alive), "")
    line = distributed._complaint(store, 0, 5, timed_out)
    assert (
        line
        == "rank 0 gives up: ranks 1, 3, 4 did not answer in time; go on from the last checkpoint with --resume auto"
    )
    for alive in (1, 3, 4):
        store.set(str(alive), "")
    assert "every rank answers, but a connection" in distributed._complaint(store, 0, 5, timed_out)

    class Unreachable(dist.HashStore):
        def check(self, keys: list[str]) -> bool:
            raise dist.DistNetworkError("Broken pipe")

    said = distributed._complaint(Unreachable(), 3, 5, RuntimeError("gloo: Connection closed by peer"))
    assert said.startswith("rank 3 gives up: rank 0 did not answer any more, nor the store beside it;")


def test_the_command_line_says_it_in_a_line_and_ends_with_75(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def lost(args: list[str]) -> int:
        raise LostRank("rank 0 gives up: rank 1 did not answer in time")

    def leave(code: int) -> None:
        raise SystemExit(code)

    monkeypatch.setattr(cli, "_dispatch", lost)
    monkeypatch.setattr(os, "_exit", leave)
    with pytest.raises(SystemExit) as ended:
        cli.main(["train", "silc_c-tiny"])
    assert ended.value.code == 75
    assert capsys.readouterr().err == "silc: rank 0 gives up: rank 1 did not answer in time\n"


@pytest.mark.parametrize(
    ("said", "broke_off"),
    [
        ("Application timeout caused pair closure", True),  # out of DDP's backward pass, without a source
        ("[../gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:1", True),
        ("Connection reset by peer", True),
        ("mat1 and mat2 shapes cannot be multiplied (2x3 and 4x5)", False),
    ],
)
def test_which_errors_are_another_ranks(said: str, broke_off: bool) -> None:
    assert distributed._broke_off(RuntimeError(said)) is broke_off


@pytest.mark.parametrize(
    ("device", "gpus", "rank", "ranks", "there"),
    [
        ("auto", 0, 0, 1, "cpu"),
        ("auto", 4, 2, 4, "cuda:2"),
        ("cpu", 4, 1, 2, "cpu"),
        ("cpu:0", 0, 0, 1, "cpu"),
        ("cuda", 4, 3, 4, "cuda:3"),
        ("cuda:1", 2, 0, 1, "cuda:1"),
        (torch.device("cuda", 1), 2, 0, 1, "cuda:1"),
    ],
)
def test_a_device_is_the_one_that_was_named(
    device: str | torch.device, gpus: int, rank: int, ranks: int, there: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    assert distributed.place(device, rank, ranks) == torch.device(there)


@pytest.mark.parametrize(
    ("device", "gpus", "ranks", "complaint"),
    [
        ("cuda", 0, 1, "torch sees no CUDA device; use auto or cpu"),
        ("cuda:0", 0, 1, "torch sees no CUDA device"),
        ("cuda:2", 2, 1, "torch sees cuda:0 to cuda:1"),
        ("cuda:99999999999999999999", 2, 1, "is not known"),
        ("cuda:0", 2, 2, "is one GPU for 2 ranks"),
        ("cpu:1", 0, 1, "use cpu"),
        ("mps", 0, 1, "device 'mps' is not known; needed auto, cpu, cuda or cuda:N"),
        ("meta", 0, 1, "is not known"),
        ("xla", 0, 1, "is not known"),
        ("CUDA", 2, 1, "is not known"),
        ("cuda:-1", 2, 1, "is not known"),
        ("cuda: 0", 2, 1, "is not known"),
        ("", 2, 1, "is not known"),
        ("gpu", 2, 1, "is not known"),
        (1, 2, 1, "device '1' is not known"),
        (None, 2, 1, "is not known"),
        (torch.device("mps"), 2, 1, "is not known"),
    ],
)
def test_other_devices_are_refused(
    device: Any, gpus: int, ranks: int, complaint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    with pytest.raises(BadInput, match=re.escape(complaint)):
        distributed.place(device, ranks=ranks)


def test_more_ranks_than_gpus_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(BadInput, match="rank 2 of its node, where torch sees 2 GPUs"):
        distributed.place("auto", 2, 4)


@pytest.mark.parametrize(
    "args",
    [
        ["train", "clip-tiny", "--out", "x", "--train.device"],
        ["eval", "x", "--device"],
        ["predict", "embed", "x", "x", "--device"],
        ["bench", "losses", "--device"],
    ],
)
def test_every_command_reads_devices_alike(args: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    for device in ("mps", "meta", "gpu0", "cuda:x", "cuda:"):
        assert cli.main([*args, device]) == 2
        said = capsys.readouterr().err
        assert "needed auto, cpu, cuda or cuda:N" in said
        assert said.count("\n") == 1


GROUP = {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"RANK": None}, r"WORLD_SIZE 2\) without RANK; start the ranks with torchrun"),
        ({"WORLD_SIZE": None, "RANK": "1"}, "without WORLD_SIZE"),
        ({"MASTER_ADDR": None, "MASTER_PORT": None}, "without MASTER_ADDR and MASTER_PORT"),
        ({"RANK": ""}, "without RANK"),
        ({"RANK": "2"}, r"WORLD_SIZE 2\) and RANK is 2"),
        ({"WORLD_SIZE": "0"}, r"WORLD_SIZE 0\) and RANK is 0"),
        ({"WORLD_SIZE": "two"}, "WORLD_SIZE is 'two'; it must be a whole number of at least 0"),
        ({"LOCAL_RANK": "-1"}, "LOCAL_RANK is '-1'; it must be a whole number of at least 0"),
    ],
)
def test_half_a_description_of_a_group_is_refused(
    changes: dict[str, str | None], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (GROUP | changes).items():
        monkeypatch.setenv(name, value) if value is not None else monkeypatch.delenv(name, raising=False)
    with pytest.raises(BadInput, match=message) as caught, distributed.join("cpu"):
        pass
    assert "\n" not in str(caught.value)


def test_one_process_needs_no_description(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in GROUP:
        monkeypatch.delenv(name, raising=False)
    for given in ({}, {"WORLD_SIZE": "1"}, {"WORLD_SIZE": "1", "RANK": "0"}, {"WORLD_SIZE": ""}):
        for name, value in given.items():
            monkeypatch.setenv(name, value)
        with distributed.join("cpu") as world:
            assert world.size == 1
