"""What a server takes at most from those who ask. Imports no torch."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated

from silc.settings import COUNT, NATURAL, Range, Settings

HOST, PORT = "127.0.0.1", 8000
LOOPBACK = ("127.0.0.1", "localhost", "::1")
"""Names of this machine that no other reaches."""
SHORTEST_TOKEN = 16
"""Characters of a token that cannot be guessed by trying."""
TOKEN = re.compile(rf"[\w.~+/-]{{{SHORTEST_TOKEN},}}=*", re.ASCII)
"""What a Bearer token is made of (RFC 6750, 2.1)."""
SECONDS = Range(above=0, most=86_400)


@dataclass(frozen=True)
class Limits(Settings):
    """Of a request, of what is kept, and of those who wait."""

    picture_bytes: Annotated[int, COUNT] = 20 * 2**20
    """Of a picture's file, refused by its announced length before it is read."""
    pixels: Annotated[int, COUNT] = 16_000_000
    """Of a picture, refused by its header before it is decoded."""
    json_bytes: Annotated[int, COUNT] = 256 * 2**10
    """Of any other request."""
    held_bytes: Annotated[int, COUNT] = 80 * 2**20
    """Of all requests that are being read or answered at one moment."""
    body_seconds: Annotated[float, SECONDS] = 30.0
    """In which the headers of a request, and then its body, must have come."""
    decode_seconds: Annotated[float, SECONDS] = 10.0
    """In which a picture must be decoded."""
    decode_bytes: Annotated[int, COUNT] = 2**30
    """Memory of decoding a picture."""
    kept_bytes: Annotated[int, COUNT] = 2**29
    """Pixels of pictures that are kept; those used longest ago go first."""
    waiting: Annotated[int, NATURAL] = 16
    """Requests that wait while one is computed; the next one is told when to come back."""
    compute_seconds: Annotated[float, SECONDS] = 120.0
    """In which an answer must be computed."""
    connections: Annotated[int, COUNT] = 256
    """Open at one moment."""
