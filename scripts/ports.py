"""Ports of loopback for servers and process groups that are told where to listen; for tests and for the drill."""

from __future__ import annotations

import contextlib
import random
import socket

ASKED_FOR = range(20_000, 32_000)
"""Below the ports that Linux gives to whoever asks for any, so that nobody is given one between choice and use."""


def free_ports(num: int) -> list[int]:
    """As many different ports that nothing listens on."""
    draw = random.SystemRandom()
    with contextlib.ExitStack() as held:
        ports: list[int] = []
        while len(ports) < num:
            with contextlib.suppress(OSError):  # taken: another one
                held.enter_context(socket.create_server(("127.0.0.1", port := draw.choice(ASKED_FOR))))
                ports.append(port)
        return ports


def free_port() -> int:
    """A port that nothing listens on."""
    return free_ports(1)[0]
