"""Decode untrusted pictures in a process of their own (`worker`), with limits of time and memory."""

from __future__ import annotations

import asyncio
import os
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from contextlib import suppress
from pathlib import Path

from PIL import Image

import silc
from silc.images import BadImage
from silc.serve.config import Limits
from silc.serve.turns import Turns
from silc.serve.worker import ASKED, HEAD, PIXELS


class Decoder:
    """The decoding process: started when it is first needed, and again whenever it was lost."""

    def __init__(self, limits: Limits) -> None:
        self.limits, self.turns = limits, Turns(limits.waiting)
        self.process: Process | None = None

    async def decode(self, data: bytes) -> Image.Image:
        """Decode a picture to RGB, turned by its EXIF orientation.

        Raises:
            BadImage: as `silc.images.decode_rgb`; also if the picture ends the process or takes too long.
            Busy: too many wait.
        """
        async with self.turns.one():
            for others_fault in (True, False):  # the first loss may not be this picture's fault: try twice
                try:
                    async with asyncio.timeout(self.limits.decode_seconds):
                        return await self._asked(await self._running(), data)
                except BadImage:
                    raise
                except TimeoutError:
                    await self.close()
                    most = f"{self.limits.decode_seconds:g} s"
                    raise BadImage("broken_image", f"an image that takes longer than {most} to decode") from None
                except (asyncio.IncompleteReadError, ConnectionError):
                    await self.close()
                    if not others_fault:
                        raise BadImage("broken_image", "an image that crashes the process that decodes it") from None
                except BaseException:  # cancelled in the middle of an answer, which the next request must not read
                    await self.close()
                    raise
        raise AssertionError("unreachable")

    async def close(self) -> None:
        """End the process."""
        process, self.process = self.process, None
        if process is not None:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()

    async def _running(self) -> Process:
        if self.process is not None and self.process.returncode is not None:
            await self.close()  # it was killed while it was idle
        if self.process is None:
            self.process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-P", "-m", "silc.serve.worker"),
                *(str(self.limits.pixels), str(self.limits.decode_bytes), str(self.limits.decode_seconds)),
                env=_environment(),
                stdin=PIPE,
                stdout=PIPE,
                stderr=DEVNULL,
            )
        return self.process

    async def _asked(self, process: Process, data: bytes) -> Image.Image:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(ASKED.pack(len(data)) + data)
        await process.stdin.drain()
        kind, first, second = HEAD.unpack(await process.stdout.readexactly(HEAD.size))
        if kind == PIXELS:
            pixels = await process.stdout.readexactly(3 * first * second)
            return Image.frombytes("RGB", (first, second), pixels)
        cause, _, why = (await process.stdout.readexactly(first)).decode().partition("\n")
        raise BadImage(cause, why)


def _environment() -> dict[str, str]:
    """This process's environment, changed: the worker imports the same silc, and a library it does not need has one
    thread."""
    own = str(Path(silc.__file__).parent.parent)
    paths = os.pathsep.join(filter(None, (own, os.environ.get("PYTHONPATH"))))
    return {**os.environ, "PYTHONPATH": paths, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
