"""What is refused before it is read."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest

from silc.serve.config import Limits
from silc.serve.guard import HEADERS, Guard

Message = dict[str, Any]
HERE = {"host": "127.0.0.1:8000"}


class Application:
    """Answers 200 with the length of the body, and counts how often it was asked."""

    asked = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.asked += 1
        body = (await receive())["body"]
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": json.dumps({"detail": str(len(body))}).encode()})


def guarded(token: str = "", **limits: Any) -> tuple[Guard, Application]:
    inside = Application()
    return Guard(inside, replace(Limits(), **limits), token=token), inside


def asked(
    guard: Guard,
    headers: dict[str, str],
    path: str = "/api/segment",
    body: tuple[bytes, ...] = (),
    receive: Callable[[], Awaitable[Message]] | None = None,
) -> tuple[int, dict[str, str], str]:
    """(status, headers, detail) of an answer; status 0 where there is none."""
    parts = [{"type": "http.request", "body": part, "more_body": True} for part in body]
    if parts:
        parts[-1]["more_body"] = False
    sent: list[Message] = []

    async def received() -> Message:
        return parts.pop(0) if parts else {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        sent.append(message)

    listed = [(name.encode(), value.encode()) for name, value in headers.items()]
    scope = {"type": "http", "method": "POST", "path": path, "headers": listed, "query_string": b""}
    asyncio.run(guard(scope, receive or received, send))
    if not sent:
        return 0, {}, ""
    found = {name.decode().lower(): value.decode() for name, value in sent[0]["headers"]}
    return sent[0]["status"], found, json.loads(sent[1]["body"])["detail"]


def test_a_body_comes_through_in_one_piece() -> None:
    guard, _ = guarded()
    status, headers, detail = asked(guard, {**HERE, "content-length": "5"}, body=(b"ab", b"", b"cde"))
    assert (status, detail) == (200, "5")
    assert {name.lower(): value for name, value in HEADERS.items()}.items() <= headers.items()
    assert guard.held == 0


@pytest.mark.parametrize(
    ("headers", "status", "why"),
    [
        ({"host": "evil.example"}, 421, "not to another name"),
        ({"host": "127.0.0.1.evil.example:8000"}, 421, "not to another name"),
        ({"host": "[::1"}, 421, "not to another name"),
        ({}, 421, "not to another name"),
        ({**HERE, "origin": "http://evil.example"}, 403, "other sites"),
        ({**HERE, "origin": "null"}, 403, "other sites"),
        ({**HERE, "origin": "http://[::1"}, 403, "other sites"),
        ({**HERE, "origin": ""}, 403, "other sites"),
        ({**HERE, "origin": "http://127.0.0.1:9000"}, 403, "other sites"),
        ({**HERE, "content-length": "300000"}, 413, "300,000 bytes, the limit is 262,144"),
        ({**HERE, "transfer-encoding": "chunked"}, 411, "Content-Length"),
    ],
)
def test_it_is_refused_before_anything_reads_it(headers: dict[str, str], status: int, why: str) -> None:
    guard, inside = guarded()

    async def never() -> Message:
        raise AssertionError("the body was read")

    found, sent, detail = asked(guard, headers, receive=never)
    assert found == status
    assert why in detail
    assert "\n" not in detail
    assert sent["content-security-policy"].startswith("default-src 'none'")
    assert inside.asked == 0
    assert guard.held == 0


def test_a_picture_may_be_larger_than_a_question() -> None:
    guard, _ = guarded(picture_bytes=500, json_bytes=100)
    headers = {**HERE, "content-length": "300"}
    assert asked(guard, headers, "/api/pictures", (b"x" * 300,))[0] == 200
    assert asked(guard, headers, "/api/segment", (b"x" * 300,))[0] == 413


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ("", "a token is needed"),
        ("Bearer wrong", "the token is wrong"),
        ("Basic sesame-sesame-1", "the token is wrong"),
    ],
)
def test_without_the_token_only_the_page_is_served(given: str, why: str) -> None:
    guard, inside = guarded(token="sesame-sesame-1")
    headers = {**HERE, **({"authorization": given} if given else {})}
    status, sent, detail = asked(guard, headers)
    assert status == 401
    assert detail.startswith(why)
    assert sent["www-authenticate"] == "Bearer"
    assert inside.asked == 0
    assert asked(guard, headers, "/page.css")[0] == 200
    assert asked(guard, {**HERE, "authorization": "bearer sesame-sesame-1"})[0] == 200


def test_with_a_token_the_server_has_any_name() -> None:
    """As behind a proxy; a page that calls this machine by a name of its own does not know the token."""
    guard, _ = guarded(token="sesame-sesame-1")
    headers = {"host": "silc.example", "origin": "https://silc.example"}
    assert asked(guard, headers)[0] == 401
    assert asked(guard, {**headers, "authorization": "bearer sesame-sesame-1"})[0] == 200


def test_without_the_token_no_body_is_read() -> None:
    """Or strangers fill what all bodies together may take."""
    guard, inside = guarded(token="sesame-sesame-1")
    for path in ("/", "/page.css", "/api/segment", "/api/pictures"):
        status, _, _ = asked(guard, {**HERE, "content-length": "1"}, path, body=(b"x",))
        assert status == (401 if path.startswith("/api/") else 413)
    assert inside.asked == 0


def test_a_body_that_does_not_come_is_not_waited_for() -> None:
    guard, inside = guarded(body_seconds=0.05)

    async def slow() -> Message:
        await asyncio.sleep(0.02)
        return {"type": "http.request", "body": b"x", "more_body": True}

    status, _, detail = asked(guard, {**HERE, "content-length": "1000"}, receive=slow)
    assert status == 408
    assert "0.05 s" in detail
    assert (inside.asked, guard.held) == (0, 0)


def test_a_cut_connection_leaves_nothing_behind() -> None:
    guard, inside = guarded()
    assert asked(guard, {**HERE, "content-length": "1000"})[0] == 0
    assert (inside.asked, guard.held) == (0, 0)


def test_bodies_together_are_bounded() -> None:
    guard, _ = guarded(held_bytes=1000)
    guard.held = 600
    headers = {**HERE, "content-length": "500"}
    status, sent, _ = asked(guard, headers, body=(b"x" * 500,))
    assert (status, sent["retry-after"]) == (503, "1")
    guard.held = 400
    assert asked(guard, headers, body=(b"x" * 500,))[0] == 200
    assert guard.held == 400


def test_websockets_are_closed() -> None:
    guard, inside = guarded()
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    asyncio.run(guard({"type": "websocket", "path": "/", "headers": []}, send, send))  # type: ignore[arg-type]
    assert sent == [{"type": "websocket.close"}]
    assert inside.asked == 0
