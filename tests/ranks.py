"""Processes of `silc` without the price of its imports: forked from a server that holds them (see conftest.py)."""

from __future__ import annotations

import multiprocessing
import os
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

from scripts.ports import free_port

SERVER = multiprocessing.get_context("forkserver")
TIMEOUT = 300
"""Seconds that something may take on a machine that has much else to do."""


def silc(*args: str, ranks: int = 2) -> str:
    """What rank 0 printed of `torchrun ... -m silc ARGS`; every rank ended well, none warned, one spoke."""
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder, str(rank)) for rank in range(ranks)]
        places = environments(ranks)
        running = [start(*args, said=file, environment=place) for file, place in zip(files, places, strict=True)]
        for process in running:
            process.join(TIMEOUT)
            process.kill()
            process.join()
        said = [file.read_text() for file in files]
        assert [process.exitcode for process in running] == [0] * ranks, said
        assert not any("Warning" in text for text in said), said
        assert not any("done: " in text for text in said[1:]), said
        return said[0]


def start(*args: str, said: Path, environment: dict[str, str] | None = None) -> ForkServerProcess:
    """`silc ARGS` in a process of its own, that prints into a file."""
    process = SERVER.Process(target=_command, args=(args, str(said), environment or {}))
    process.start()
    return process


def apart(function: Callable[..., Any], *args: Any) -> Any:
    """What a function of a module says in a fresh process, whose memory is its own."""
    with ProcessPoolExecutor(1, mp_context=SERVER) as pool:
        return pool.submit(function, *args).result(TIMEOUT)


def environments(ranks: int) -> list[dict[str, str]]:
    """Each rank's place, as torchrun writes it into the environment."""
    group = {"WORLD_SIZE": ranks, "LOCAL_WORLD_SIZE": ranks, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    places = [group | {"RANK": rank, "LOCAL_RANK": rank} for rank in range(ranks)]
    return [{name: str(value) for name, value in place.items()} for place in places]


def _command(args: tuple[str, ...], said: str, environment: dict[str, str]) -> None:
    os.environ |= environment
    with Path(said).open("w") as file:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
            os.dup2(file.fileno(), stream.fileno())
    from silc.cli import main

    sys.exit(main(list(args)))
