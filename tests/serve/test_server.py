"""The port, the token and the address that is opened."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from silc.errors import BadInput
from silc.serve.config import Limits
from silc.serve.guard import Guard
from silc.serve.server import address, bound, server_of, token_for

HEAD = b"POST /api/x HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 4\r\n\r\n"
LARGE = 32 * 2**20
MOST = 8
"""Connections."""


def test_a_port_that_is_taken_is_one_line() -> None:
    with bound("127.0.0.1", 0) as place:
        port = place.getsockname()[1]
        with pytest.raises(BadInput, match=rf"127.0.0.1:{port} is taken; give another --port"):
            bound("127.0.0.1", port)


@pytest.mark.parametrize("host", ["no.such.host.invalid", "203.0.113.7", "a" * 70 + ".x"])
def test_an_address_of_another_machine_is_one_line(host: str) -> None:
    with pytest.raises(BadInput, match="is no address of this machine; give another --host") as caught:
        bound(host, 0)
    assert "\n" not in str(caught.value)


def test_a_token_is_made_where_others_reach_the_server(tmp_path: Path) -> None:
    assert [token_for(host, "") for host in ("127.0.0.1", "localhost", "::1")] == ["", "", ""]
    made = {token_for("0.0.0.0", "") for _ in range(3)}
    assert len(made) == 3
    assert min(map(len, made)) >= 32
    file = tmp_path / "token"
    file.write_text("sesame-sesame-sesame\n")
    assert token_for("127.0.0.1", str(file)) == token_for("0.0.0.0", str(file)) == "sesame-sesame-sesame"


@pytest.mark.parametrize(
    "content", ["", "short", "two words that are long enough", "50%-of-a-token-50%", "ünïcödé-ünïcödé-ünïcödé"]
)
def test_a_token_that_is_none_is_one_line(tmp_path: Path, content: str) -> None:
    file = tmp_path / "token"
    file.write_text(content, encoding="utf-8")
    with pytest.raises(BadInput, match="--token-file") as caught:
        token_for("127.0.0.1", str(file))
    assert "\n" not in str(caught.value)
    with pytest.raises(BadInput, match="cannot be read"):
        token_for("127.0.0.1", str(tmp_path / "nowhere"))


def test_the_token_stands_where_no_browser_sends_it() -> None:
    with bound("127.0.0.1", 0) as place:
        port = place.getsockname()[1]
        assert address(place, "127.0.0.1", "") == f"http://127.0.0.1:{port}/"
        assert address(place, "::1", "") == f"http://[::1]:{port}/"
        assert address(place, "0.0.0.0", "abc") == f"http://{socket.gethostname()}:{port}/#token=abc"


async def answering(scope: Any, receive: Any, send: Any) -> None:
    """A short answer; of /large, one that no socket holds."""
    if scope["type"] == "lifespan":
        while (await receive())["type"] != "lifespan.shutdown":
            await send({"type": "lifespan.startup.complete"})
        await send({"type": "lifespan.shutdown.complete"})
        return
    body = bytes(LARGE) if scope["path"] == "/large" else b"here"
    length = (b"content-length", str(len(body)).encode())
    await send({"type": "http.response.start", "status": 200, "headers": [length]})
    for start in range(0, len(body), 2**16):
        part = {"type": "http.response.body", "body": body[start : start + 2**16]}
        await send({**part, "more_body": start + 2**16 < len(body)})


@pytest.fixture
def place() -> Iterator[tuple[str, int]]:
    """Where a server with little patience answers."""
    limits = replace(Limits(), body_seconds=0.5, connections=MOST)
    with bound("127.0.0.1", 0) as place:
        server = server_of(Guard(answering, limits, token=""), limits)
        thread = threading.Thread(target=lambda: server.run(sockets=[place]))
        thread.start()
        while not server.started:
            time.sleep(0.01)
        yield place.getsockname()
        server.should_exit = True
        thread.join(20)
        assert not thread.is_alive()


def everything(connection: socket.socket) -> bytes:
    """What comes until the other side ends the connection; a test fails by time where it does not."""
    connection.settimeout(10)
    parts = []
    try:
        while part := connection.recv(2**16):
            parts.append(part)
    except ConnectionResetError:
        pass
    return b"".join(parts)


def test_slow_clients_are_cut_off_and_others_are_answered(place: tuple[str, int]) -> None:
    silent, started, half, second, deaf = (socket.create_connection(place) for _ in range(5))
    started.sendall(HEAD[:20])
    half.sendall(HEAD + b"ab")
    second.sendall(HEAD + b"abcd")
    time.sleep(0.2)
    second.sendall(HEAD[:20])  # a connection that was answered once is no better
    deaf.sendall(b"GET /large HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
    assert everything(silent) == b""
    assert everything(started) == b""
    assert everything(half).startswith(b"HTTP/1.1 408 ")
    assert everything(second).count(b"HTTP/1.1 200 OK") == 1
    time.sleep(1.5)
    assert len(everything(deaf)) < LARGE
    for one in (silent, started, half, second, deaf):
        one.close()
    with socket.create_connection(place) as decent:
        decent.sendall(HEAD.replace(b"Host", b"Connection: close\r\nHost") + b"abcd")
        assert everything(decent).endswith(b"here")


def test_one_connection_too_many_is_told_when_to_come_again(place: tuple[str, int]) -> None:
    asked = HEAD.replace(b"Host", b"Connection: close\r\nHost") + b"abcd"
    with contextlib.ExitStack() as open_ones:
        others = [open_ones.enter_context(socket.create_connection(place)) for _ in range(MOST)]
        for one in others:  # all of them are answered, and stay open
            one.sendall(HEAD + b"abcd")
            assert one.recv(2**10).startswith(b"HTTP/1.1 200 ")
        late = open_ones.enter_context(socket.create_connection(place))
        late.sendall(asked)
        said = everything(late)
        assert said.startswith(b"HTTP/1.1 503 ")
        assert b"\r\nretry-after: 1\r\n" in said
        assert said.endswith(b'{"detail":"the server is busy; ask again in 1 s"}')
    time.sleep(0.1)
    with socket.create_connection(place) as later:
        later.sendall(asked)
        assert everything(later).endswith(b"here")


def test_cut_connections_and_nonsense_end_nothing(place: tuple[str, int]) -> None:
    for sent in (
        b"",
        b"\x16\x03\x01\x02",
        HEAD + b"a",
        b"GET / HTTP/9.9\r\n\r\n",
        b"x" * 100_000,
        HEAD[:-4] + b"\0\r\n",
    ):
        with socket.create_connection(place) as one:
            one.sendall(sent)
    with socket.create_connection(place) as decent:
        decent.sendall(HEAD.replace(b"Host", b"Connection: close\r\nHost") + b"abcd")
        assert everything(decent).endswith(b"here")
