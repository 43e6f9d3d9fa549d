"""Serve the application at a port: the socket, the token, and the address to open."""

from __future__ import annotations

import asyncio
import errno
import secrets
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from silc.errors import BadInput
from silc.serve.config import LOOPBACK, SHORTEST_TOKEN, TOKEN, Limits

if TYPE_CHECKING:
    from silc.serve.guard import Guard

WHY = {
    errno.EADDRINUSE: "is taken; give another --port, or 0 for any free port",
    errno.EACCES: "may not be used; give a --port above 1023",
    errno.EADDRNOTAVAIL: "is no address of this machine; give another --host",
}
LARGEST_HEAD = 32 * 2**10
"""Most bytes of a request's headers."""


def bound(host: str, port: int) -> socket.socket:
    """Open a socket at this host and port, before any work is done.

    Raises:
        BadInput: the port is taken, or the host is none of this machine's.
    """
    try:
        family, *_, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        return socket.create_server(place[:2], family=family, backlog=128)
    except (OSError, UnicodeError) as error:
        number = getattr(error, "errno", None)
        unknown = isinstance(error, socket.gaierror | UnicodeError)
        why = "is no address of this machine; give another --host" if unknown else WHY.get(number or 0, str(error))
        raise BadInput(f"{host}:{port} {why}") from None


def token_for(host: str, file: str) -> str:
    """The token that callers must know: from the file, or random if other machines can reach this one, else ''.

    Raises:
        BadInput: the file cannot be read, or its token can be guessed or does not fit in a header.
    """
    if not file:
        return "" if host in LOOPBACK else secrets.token_urlsafe(24)
    try:
        token = Path(file).read_text(encoding="ascii").strip()
    except (OSError, ValueError) as error:
        raise BadInput(f"--token-file {file} cannot be read: {error}") from None
    if not TOKEN.fullmatch(token):
        raise BadInput(
            f"--token-file {file} must hold one word of at least {SHORTEST_TOKEN} letters, digits and -._~+/, as "
            '`python -c "import secrets; print(secrets.token_urlsafe())"` prints'
        )
    return token


def address(place: socket.socket, host: str, token: str) -> str:
    """The address for a browser. The random token stands behind the #, in the part that no browser sends."""
    port = place.getsockname()[1]
    name = socket.gethostname() if host in ("0.0.0.0", "::") else host
    return f"http://{f'[{name}]' if ':' in name else name}:{port}/{f'#token={token}' if token else ''}"


def server_of(app: Guard, limits: Limits) -> uvicorn.Server:
    """The server. It runs until it is asked to stop: `server_of(app, limits).run(sockets=[bound(host, port)])`."""
    config = uvicorn.Config(
        app,
        http=_in_time(limits.body_seconds),
        loop="asyncio",
        ws="none",
        lifespan="on",
        log_config=None,
        log_level="error",
        access_log=False,
        server_header=False,
        date_header=False,
        proxy_headers=False,
        h11_max_incomplete_event_size=LARGEST_HEAD,
        timeout_keep_alive=10,
        timeout_graceful_shutdown=5,
    )
    server = uvicorn.Server(config)
    app.connections = server.server_state.connections  # uvicorn's own limit does not say when to come again
    return server


def _in_time(seconds: float) -> type[asyncio.Protocol]:
    """HTTP that cuts a connection when a request's headers take longer than `seconds` to come, or when the client reads
    no answer for that long."""

    class InTime(H11Protocol):
        late: asyncio.TimerHandle | None = None

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._hurry()

        def connection_lost(self, exc: Exception | None) -> None:
            self._calm()
            super().connection_lost(exc)

        def data_received(self, data: bytes) -> None:
            between = not self._has_a_request()
            if between and self.late is None:
                self._hurry()
            super().data_received(data)
            if between and self._has_a_request():  # from here on the guard watches the time
                self._calm()

        def pause_writing(self) -> None:
            super().pause_writing()
            self._hurry()

        def resume_writing(self) -> None:
            super().resume_writing()
            self._calm()

        def _has_a_request(self) -> bool:
            return self.cycle is not None and not self.cycle.response_complete

        def _hurry(self) -> None:
            self._calm()
            self.late = self.loop.call_later(seconds, self.transport.abort)

        def _calm(self) -> None:
            if self.late is not None:
                self.late.cancel()
            self.late = None

    return InTime
