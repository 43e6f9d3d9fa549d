"""Worker processes that die, hang or cannot hand over: one line with the likely cause, in time, and nothing waits."""

from __future__ import annotations

import multiprocessing
import os
import resource
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from silc.data import check as checks
from silc.data import loader as loaders
from silc.data import workers
from silc.data.check import check
from silc.data.pairs import Pair
from silc.data.shards import ShardPairs
from silc.data.workers import Board, LostWorker, Prefetcher, StoppedWaiting, Watch
from silc.errors import BadInput
from tests.data.test_loader import assert_equal, loader

pytestmark = [
    pytest.mark.timeout(90),
    pytest.mark.skipif(sys.platform != "linux", reason="workers are forked on Linux"),
]


class Trouble(ShardPairs):
    """Shards; whoever reads the 20th sample or a later one comes to harm."""

    def __init__(self, shards: list[Path], harm: Callable[[], object]) -> None:
        super().__init__(shards)
        self.harm = harm

    def __getitem__(self, index: int) -> Pair:
        if index >= 20:
            self.harm()
        return super().__getitem__(index)


def signalled(number: signal.Signals) -> Callable[[], None]:
    return lambda: os.kill(os.getpid(), number)


def without_files() -> None:
    """No file can be opened from here on, so what is shared cannot be sent."""
    least = len(os.listdir("/proc/self/fd"))
    resource.setrlimit(resource.RLIMIT_NOFILE, (least - 4, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (signalled(signal.SIGKILL), r"which last began sample '.+' of .+\.tar, was killed \(SIGKILL\).* memory"),
        (
            signalled(signal.SIGSEGV),
            r"sample '.+' of .+, died of SIGSEGV: an image may have crashed a decoding library",
        ),
        (signalled(signal.SIGABRT), "died of SIGABRT"),
        (signalled(signal.SIGBUS), "died of SIGBUS: there was no room .*/dev/shm has"),
        (lambda: sys.exit(3), "ended with exit code 3"),
        (lambda: os._exit(0), "ended with exit code 0"),
        (without_files, r"could not send its result: .*Too many open files|cannot be started or do not answer"),
    ],
    ids=["SIGKILL", "SIGSEGV", "SIGABRT", "SIGBUS", "sys.exit", "_exit", "EMFILE"],
)
def test_a_worker_that_ends_is_told_with_its_cause(shards: list[Path], harm: Callable[[], object], said: str) -> None:
    began = time.monotonic()
    with pytest.raises(LostWorker, match=said) as told:
        list(loader(Trouble(shards, harm), workers=2).batches(0, 20))
    assert "\n" not in str(told.value)
    assert told.value.exit_code == 2
    assert time.monotonic() - began < 30
    assert not [child for child in multiprocessing.active_children() if child.join(5) or child.is_alive()]


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (signalled(signal.SIGKILL), r"sample '.+' of .+, was killed \(SIGKILL\).*lower --workers"),
        (signalled(signal.SIGSEGV), "died of SIGSEGV"),
        (lambda: os._exit(4), "ended with exit code 4"),
        (signalled(signal.SIGSTOP), "no worker process has begun another sample"),
    ],
    ids=["SIGKILL", "SIGSEGV", "_exit", "stopped"],
)
def test_a_check_does_not_wait_for_a_worker_that_ended(
    shards: list[Path], harm: Callable[[], object], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Watch.__init__, "__kwdefaults__", {"patience": 2.0, "asked": bool})
    began, others = time.monotonic(), set(multiprocessing.active_children())
    with pytest.raises(LostWorker, match=said):
        check(Trouble(shards, harm), workers=2)
    assert time.monotonic() - began < 30
    own = [child.pid for child in multiprocessing.active_children() if child not in others]
    # By the kernel's word: while the pool's thread collects a process, multiprocessing holds it to be alive.
    until = time.monotonic() + 30
    while (running := [pid for pid in own if _runs(pid)]) and time.monotonic() < until:
        time.sleep(0.1)
    assert not running


def _runs(pid: int | None) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_check_without_worker_processes(
    shards: list[Path], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(checks, "lacking", lambda _: "processes cannot share memory")
    assert check(ShardPairs(shards), workers=2).num_good == len(ShardPairs(shards))
    assert "this process reads all samples" in caplog.text


def test_a_worker_killed_between_batches_does_not_break_into_a_step(shards: list[Path]) -> None:
    """torch's own handler of SIGCHLD raises wherever the main process is."""
    batches = loader(ShardPairs(shards), workers=1).batches(0, 1000)
    next(batches)
    (worker,) = multiprocessing.active_children()
    worker.kill()
    worker.join()
    time.sleep(0.1)  # a signal would have come
    with pytest.raises(LostWorker, match="SIGKILL"):
        list(batches)


@pytest.mark.parametrize("harm", [signalled(signal.SIGSTOP), lambda: time.sleep(1000)], ids=["stopped", "asleep"])
def test_a_worker_that_hangs_is_named_and_left(shards: list[Path], harm: Callable[[], object]) -> None:
    with pytest.raises(LostWorker, match=r"no worker process has begun another sample .* last begun: sample '.+' of"):
        list(loader(Trouble(shards, harm), workers=1, patience=2.0).batches(0, 20))
    assert not [child for child in multiprocessing.active_children() if child.join(5) or child.is_alive()]


def test_slow_is_not_hung(shards: list[Path]) -> None:
    pairs = Trouble(shards, lambda: time.sleep(0.2))
    assert len(list(loader(pairs, workers=1, patience=1.0).batches(0, 3))) == 3


def test_a_request_to_stop_is_heard_while_no_batch_comes(shards: list[Path]) -> None:
    began = time.monotonic()
    asked = [False]

    def ask() -> bool:
        asked[0] = time.monotonic() - began > 2
        return asked[0]

    with pytest.raises(StoppedWaiting):
        list(loader(Trouble(shards, lambda: time.sleep(1000)), workers=1).batches(0, 20, ask))
    assert time.monotonic() - began < 20


@pytest.mark.parametrize("free", [0, 1, 4096, 65_536], ids=str)
def test_without_room_batches_go_through_a_pipe_and_are_the_same(
    shards: list[Path], free: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(loaders, "free_shared_memory", lambda: free)
    pairs = ShardPairs(shards)
    narrow = loader(pairs, workers=2)
    assert "batches go through a pipe" in caplog.text
    found, wanted = list(narrow.batches(0, 6)), list(loader(pairs).batches(0, 6))
    assert_equal(found, wanted)
    assert found[0].views.globals is not None
    assert wanted[0].views.globals is not None
    assert found[0].views.globals.stride() == wanted[0].views.globals.stride()


def test_where_processes_can_share_nothing_one_process_reads(
    shards: list[Path], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refused(*_: object) -> None:
        raise FileNotFoundError(2, "No such file or directory")

    monkeypatch.setattr(multiprocessing.get_context("fork"), "Lock", refused, raising=False)
    pairs = ShardPairs(shards)
    alone = loader(pairs, workers=2)
    assert "batches are made in this process" in caplog.text
    assert_equal(list(alone.batches(0, 3)), list(loader(pairs).batches(0, 3)))


@pytest.mark.parametrize("workers", [0, 1])
def test_memory_that_runs_out_is_one_line(shards: list[Path], workers: int) -> None:
    def harm() -> None:
        raise MemoryError

    with pytest.raises(BadInput, match="memory ran out"):
        list(loader(Trouble(shards, harm), workers=workers).batches(0, 20))


def test_a_batch_that_cannot_be_shared_is_one_line(shards: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise RuntimeError("unable to allocate shared memory(shm): No space left on device (28)")

    monkeypatch.setattr(torch.UntypedStorage, "_new_shared", full)
    with pytest.raises(BadInput, match=r"cannot share its batch: .*No space left.*--shm-size"):
        list(loader(ShardPairs(shards), workers=1).batches(0, 2))


def test_processes_that_cannot_be_started_are_one_line(shards: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    def refused() -> int:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    batches = loader(ShardPairs(shards), workers=2).batches(0, 2)
    monkeypatch.setattr(os, "fork", refused)
    with pytest.raises(BadInput, match=r"cannot be started or do not answer: .*unavailable; lower data.workers"):
        next(batches)


def test_a_fault_in_the_code_keeps_its_traceback(shards: list[Path]) -> None:
    def harm() -> None:
        raise ZeroDivisionError("a bug")

    with pytest.raises(ZeroDivisionError, match="a bug"):
        list(loader(Trouble(shards, harm), workers=1).batches(0, 20))


def test_a_worker_that_closes_its_end_before_it_is_seen_to_be_gone() -> None:
    watch = Watch(Board(1), str, "--workers")

    def start() -> Iterator[int]:
        context = multiprocessing.get_context("fork")
        context.Process(target=lambda: (time.sleep(0.5), os.kill(os.getpid(), signal.SIGKILL)), daemon=True).start()
        return reset()

    def reset() -> Iterator[int]:
        yield 1
        raise ConnectionResetError(104, "Connection reset by peer")

    feed = Prefetcher(start, watch)
    assert next(feed) == 1
    with pytest.raises(LostWorker, match=r"was killed \(SIGKILL\)"):
        next(feed)


def test_the_board_tells_workers_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "ENDING", 0.1)
    board = Board(3)
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=board.reading, args=(number,)) for number in (7, 8, 9)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [board.of(process)[0] for process in processes] == [7, 8, 9]
    assert board.turns() == 3
    watch = Watch(board, str, "--workers")
    watch.processes = processes
    with pytest.raises(LostWorker, match="which last began 7, ended with exit code 0"):
        watch.until(lambda _: False)


def test_room_is_the_file_systems_or_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "SHARED_MEMORY", tmp_path)
    assert workers.free_shared_memory() > 0
    monkeypatch.setattr(workers, "SHARED_MEMORY", tmp_path / "absent")
    assert workers.free_shared_memory() == 0
