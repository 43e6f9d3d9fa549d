"""The process that decodes untrusted pictures: bytes in at stdin, pixels out at stdout, until stdin ends.

It is started by `decoding.Decoder`. The kernel limits its memory and processor time, so a picture that takes too much
ends this process and nothing else. Imports no torch.

A request is the number of bytes, then the bytes. An answer is a head (its kind, width or number of bytes, height), then
RGB pixels, or the cause and the reason of the failure.
"""

from __future__ import annotations

import os
import resource
import struct
import sys
from typing import BinaryIO

from silc.images import BadImage, decode_pixels

ASKED, HEAD = struct.Struct(">Q"), struct.Struct(">cII")
PIXELS, REFUSED = b"+", b"-"


def main(pixels: int, memory: int, seconds: float) -> None:
    """Answer until stdin ends.

    Args:
        pixels: most pixels of a picture.
        memory: bytes beyond what the process has when it begins.
        seconds: of processor time for a picture.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    most = _address_space() + memory
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    asked, answers = sys.stdin.buffer, sys.stdout.buffer
    while head := asked.read(ASKED.size):
        _begin_to_count(seconds)
        answer(_exactly(asked, ASKED.unpack(head)[0]), answers, pixels)


def answer(data: bytes, answers: BinaryIO, most: int) -> None:
    """Write the pixels of a picture, or why it cannot be decoded."""
    try:
        found = decode_pixels(data, max_pixels=most, turned=True)
        height, width, _ = found.shape
        answers.write(HEAD.pack(PIXELS, width, height))
        answers.write(found.data)
    except (BadImage, MemoryError) as error:
        cause = error.cause if isinstance(error, BadImage) else "too_large"
        why = str(error) if isinstance(error, BadImage) else "an image that needs more memory than the server allows"
        said = f"{cause}\n{why}".encode(errors="backslashreplace")
        answers.write(HEAD.pack(REFUSED, len(said), 0))
        answers.write(said)
    answers.flush()


def _begin_to_count(seconds: float) -> None:
    """Let the kernel end this process after it has computed for `seconds` more."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (int(used.ru_utime + used.ru_stime + seconds) + 1, hard))


def _address_space() -> int:
    """Bytes this process has mapped."""
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")


def _exactly(stream: BinaryIO, length: int) -> bytes:
    data = stream.read(length)
    if len(data) < length:
        raise SystemExit(0)  # the server is gone
    return data


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]))
