"""A `silc train` to be hurt: real processes, alone or under one torchrun or several."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

SMALL = [
    *("--model.image.size=16", "--model.image.patch=8", "--model.image.width=32", "--model.image.depth=1"),
    *("--model.image.heads=2", "--model.image.mlp=64", "--model.embed-dim=32", "--model.text.length=12"),
    *("--model.text.width=32", "--model.text.depth=1", "--model.text.heads=2", "--model.text.mlp=64"),
    *("--model.head.hidden=32", "--model.head.bottleneck=16", "--model.head.prototypes=24"),
    *("--data.scenes.num=96", "--data.scenes.size=24", "--data.crops.local-size=8", "--data.vocab-size=300"),
    *("--train.batch-size=16", "--train.precision=float32", "--train.device=cpu"),
]
"""A silc_c that makes tens of steps a second: six steps an epoch."""
PATIENCE = 180.0
"""Seconds to wait for something that must happen."""


class Run:
    """`silc train` in a process group of its own: alone, or under torchrun, or under one torchrun of several."""

    def __init__(
        self,
        out: Path,
        *fields: str,
        recipe: str = "silc_c-tiny",
        ranks: int = 1,
        restarts: int = 0,
        node: Node | None = None,
    ) -> None:
        launcher = [sys.executable, "-m"]
        if node or ranks > 1 or restarts:
            launcher += ["torch.distributed.run", f"--nproc-per-node={ranks}", "--monitor-interval=0.1"]
            launcher += [*(node.flags if node else ["--standalone"]), f"--max-restarts={restarts}", "-m"]
        if node and node.space:
            launcher = ["ip", "netns", "exec", node.space, *launcher]
        self.out = out
        command = [*launcher, "silc", "train", recipe, "--out", str(out), "--resume", "auto", *fields]
        out.parent.mkdir(parents=True, exist_ok=True)
        self.log = out.with_suffix(f".{node.name}.log" if node else ".log")
        environment = os.environ | {"OMP_NUM_THREADS": "1"} | (node.environment if node else {})
        with self.log.open("a") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, env=environment, start_new_session=True)

    def kill(self) -> None:
        """kill -9 of everything it started, loader workers and launcher included."""
        for pid in [self.process.pid, *descendants(self.process.pid)]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()

    def finish(self) -> int:
        """Wait for its end; the exit code."""
        return self.process.wait(timeout=20 * PATIENCE)

    def ranks(self) -> list[int]:
        """Process ids of the ranks, in rank order; the launcher's children."""
        return [pid for pid, parent in processes() if parent == self.process.pid]

    def wait_for(self, what: Callable[[], bool]) -> bool:
        """Wait until something holds, as long as it runs."""
        deadline = time.monotonic() + PATIENCE
        while not what():
            if self.process.poll() is not None or time.monotonic() > deadline:
                return False
            time.sleep(0.002)
        return True


@dataclass(frozen=True)
class Node:
    """One of the machines of a run: here a torchrun of its own, which meets the others at a port of the first."""

    name: str
    port: int
    nodes: str = "2"
    """How many there must be, or a range `1:2`."""
    space: str = ""
    """Network namespace it lives in; without one all nodes share this machine's loopback."""
    address: str = "127.0.0.1"
    first: str = "127.0.0.1"

    @property
    def flags(self) -> list[str]:
        host = str(self.name == "first").lower()
        return [
            *(f"--nnodes={self.nodes}", "--rdzv-backend=c10d", f"--rdzv-endpoint={self.first}:{self.port}"),
            *(f"--rdzv-conf=is_host={host},last_call_timeout=2", "--rdzv-id=drill", f"--local-addr={self.address}"),
        ]

    @property
    def environment(self) -> dict[str, str]:
        interface = {"GLOO_SOCKET_IFNAME": "inside" if self.space else "lo"}
        if ":" not in self.nodes:
            return interface
        # Else a node that joins a running group waits for an address that was told before it came (torch 2.15).
        return interface | {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}


def processes() -> Iterator[tuple[int, int]]:
    """(process, its parent), oldest first."""
    listing = subprocess.run(["ps", "-eo", "pid,ppid", "--sort=start_time"], capture_output=True, text=True, check=True)
    for line in listing.stdout.splitlines()[1:]:
        pid, parent = line.split()
        yield int(pid), int(parent)


def descendants(pid: int) -> list[int]:
    """Children, their children, and so on."""
    family, pairs = [pid], list(processes())
    for member in family:
        family += [child for child, parent in pairs if parent == member]
    return family[1:]
