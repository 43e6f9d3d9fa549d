"""Threads that meet at a file that is not open yet leave one descriptor behind, not one each."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from silc.data.open_files import OpenFiles

THREADS = 8


def test_threads_share_one_descriptor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").write_bytes(b"0123456789")
    files, opened, together, open_ = OpenFiles(), list[int](), threading.Barrier(THREADS), os.open

    def slow(*args: object) -> int:
        together.wait(10)
        opened.append(open_(*args))  # type: ignore[arg-type]
        return opened[-1]

    monkeypatch.setattr(os, "open", slow)
    with ThreadPoolExecutor(THREADS) as threads:
        read = list(threads.map(lambda start: files.read(tmp_path / "a", start, 1), range(THREADS)))
    assert b"".join(read) == b"01234567"
    assert len(opened) == THREADS
    assert sum(_is_open(descriptor, tmp_path / "a") for descriptor in set(opened)) == 1


def _is_open(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except OSError:
        return False
