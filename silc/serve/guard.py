"""Checks of a request before anything reads it: where it comes from, how long it is, and that it comes in time.

A page of another site must not reach the server through a visitor's browser: neither by making the site's own name lead
to 127.0.0.1 (DNS rebinding), nor across origins. So `Host` must be one of this machine's names unless there is a token,
and `Origin`, if a browser sends it, must be the server's own.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse

from silc.serve.config import LOOPBACK, Limits

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

API = "/api/"
PICTURES = "/api/pictures"
POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' blob: data:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",  # no text becomes HTML
        "trusted-types 'none'",
    )
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Cache-Control": "no-store",
}


class Refused(Exception):
    """A request that is refused before it is read."""

    def __init__(self, status: int, detail: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(detail)
        self.status, self.headers = status, {"Connection": "close", **(headers or {})}


class Busy(Refused):
    """More is asked of the server at once than its limits allow."""

    def __init__(self) -> None:
        super().__init__(503, "the server is busy; ask again in 1 s", {"Retry-After": "1"})


class Gone(Exception):
    """The client closed the connection."""


class Guard:
    """An application behind the checks of this module.

    Args:
        token: what `Authorization: Bearer` must say to use the API; empty: no token, and `Host` must be one of this
            machine's own names.
    """

    def __init__(self, app: ASGIApp, limits: Limits, *, token: str) -> None:
        self.app, self.limits, self.token = app, limits, token
        self.held = 0
        self.connections: Collection[Any] = ()  # the open ones; `server_of` gives them

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As for any ASGI application."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
        elif scope["type"] == "http":
            await self._http(scope, receive, _with_headers(send))
        else:
            await send({"type": "websocket.close"})

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        length = 0
        try:
            if len(self.connections) > self.limits.connections:
                raise Busy
            headers = Headers(scope=scope)
            self._look_at(headers, scope["path"])
            length = self._admitted(headers, scope)
            self.held += length
            await self.app(scope, _replayed(await self._body(receive, length), receive), send)
        except Refused as no:
            await JSONResponse({"detail": str(no)}, no.status, no.headers)(scope, receive, send)
        except Gone:
            pass
        finally:
            self.held -= length

    def _look_at(self, headers: Headers, path: str) -> None:
        host = headers.get("host", "")
        if not self.token and _name_of(host) not in LOOPBACK:
            raise Refused(421, f"this server answers to {', '.join(LOOPBACK)}, not to another name")
        if (origin := headers.get("origin")) is not None and origin.partition("://")[2] != host:
            raise Refused(403, "pages of other sites may not use this server")
        if self.token and path.startswith(API):
            scheme, _, given = headers.get("authorization", "").partition(" ")
            same = secrets.compare_digest(given.strip().encode(), self.token.encode())
            if scheme.lower() != "bearer" or not same:
                why = "the token is wrong" if given else "a token is needed"
                raise Refused(401, f"{why}; open the address that `silc serve` printed", {"WWW-Authenticate": "Bearer"})

    def _admitted(self, headers: Headers, scope: Scope) -> int:
        """Bytes of the body that is to come, by the headers."""
        if "transfer-encoding" in headers:
            raise Refused(411, "the body's length is not given; send Content-Length, no Transfer-Encoding")
        length = int(said) if (said := headers.get("content-length", "0")).isdecimal() else 0
        if length > (most := self._most(scope["path"])):
            raise Refused(413, f"the body has {length:,} bytes, the limit is {most:,}")
        if self.held + length > self.limits.held_bytes:
            raise Busy
        return length

    def _most(self, path: str) -> int:
        """Most bytes of a body; 0 for the page, which anybody may see."""
        if path == PICTURES:
            return self.limits.picture_bytes
        return self.limits.json_bytes if path.startswith(API) else 0

    async def _body(self, receive: Receive, length: int) -> bytes:
        parts: list[bytes] = []
        try:
            async with asyncio.timeout(self.limits.body_seconds):
                while length:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise Gone
                    parts.append(message.get("body", b""))
                    if not message.get("more_body"):
                        break
        except TimeoutError:
            raise Refused(408, f"the body did not come within {self.limits.body_seconds:g} s") from None
        return b"".join(parts)


def _name_of(host: str) -> str:
    """A host without its port.

    >>> _name_of("localhost:8000"), _name_of("[::1]:8000"), _name_of("")
    ('localhost', '::1', '')
    """
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def _replayed(body: bytes, receive: Receive) -> Receive:
    """The body as one message, then whatever comes."""
    waiting: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def next_message() -> Message:
        return waiting.pop() if waiting else await receive()

    return next_message


def _with_headers(send: Send) -> Send:
    async def sent(message: Message) -> None:
        if message["type"] == "http.response.start":
            MutableHeaders(scope=message).update(HEADERS)
        await send(message)

    return sent
