"""Limits of what a server takes from its clients. Imports no torch."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated

from silc.settings import COUNT, NATURAL, Range, Settings

HOST, PORT = "127.0.0.1", 8000
LOOPBACK = ("127.0.0.1", "localhost", "::1")
"""Names of this machine that no other machine can reach."""
SHORTEST_TOKEN = 16
"""Fewest characters of a token that cannot be guessed by trying."""
TOKEN = re.compile(rf"[\w.~+/-]{{{SHORTEST_TOKEN},}}=*", re.ASCII)
"""Pattern of a Bearer token (RFC 6750, 2.1)."""
SECONDS = Range(above=0, most=86_400)


@dataclass(frozen=True)
class Limits(Settings):
    """Limits of requests, of the pictures that are kept, and of waiting."""

    picture_bytes: Annotated[int, COUNT] = 20 * 2**20
    """Bytes of a picture's file; a larger one is refused by its announced length before it is read."""
    pixels: Annotated[int, COUNT] = 16_000_000
    """Pixels of a picture; a larger one is refused by its header before it is decoded."""
    json_bytes: Annotated[int, COUNT] = 256 * 2**10
    """Bytes of any other request."""
    held_bytes: Annotated[int, COUNT] = 80 * 2**20
    """Bytes of all requests that are being read or answered at one moment."""
    body_seconds: Annotated[float, SECONDS] = 30.0
    """Seconds in which the headers of a request must have come, and then its body."""
    decode_seconds: Annotated[float, SECONDS] = 10.0
    """Seconds in which a picture must be decoded."""
    decode_bytes: Annotated[int, COUNT] = 2**30
    """Bytes of memory to decode a picture."""
    kept_bytes: Annotated[int, COUNT] = 2**29
    """Bytes of the pixels of pictures that are kept; the least recently used pictures are dropped first."""
    waiting: Annotated[int, NATURAL] = 16
    """Requests that wait while one is computed; the next one is told when to come back."""
    compute_seconds: Annotated[float, SECONDS] = 120.0
    """Seconds in which an answer must be computed."""
    connections: Annotated[int, COUNT] = 256
    """Connections open at one moment; a request on one more is told when to come back."""
