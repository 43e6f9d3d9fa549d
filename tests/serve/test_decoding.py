"""Pictures in a process of their own: what it decodes, what it refuses, and what becomes of it."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from silc.images import BadImage, decode_pixels
from silc.serve.config import Limits
from silc.serve.decoding import Decoder
from tests.serve.conftest import file_of, picture


def with_decoder(test: Callable[[Decoder], Awaitable[None]], limits: Limits | None = None) -> None:
    async def main() -> None:
        decoder = Decoder(limits or Limits())
        try:
            await test(decoder)
        finally:
            await decoder.close()

    asyncio.run(main())


def test_pixels_are_those_of_silc_predict() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    files = [
        file_of(picture()),
        file_of(picture(1, (30, 50)), "JPEG", exif=exif),
        file_of(picture(2).convert("L")),
        file_of(picture(3), "WEBP", lossless=True),
    ]

    async def test(decoder: Decoder) -> None:
        for data in files:
            found = await decoder.decode(data)
            assert (np.asarray(found) == decode_pixels(data, turned=True)).all()
        (one,) = {decoder.process.pid if decoder.process else 0}
        assert one

    with_decoder(test)


def test_what_is_refused_leaves_the_process_as_it_was() -> None:
    bomb = file_of(picture(size=(40, 40)))
    refused = {
        b"": "no_image",
        b"<html>": "no_image",
        file_of(picture(size=(30, 30)))[:80]: "broken_image",
        bomb: "too_large",
    }

    async def test(decoder: Decoder) -> None:
        processes = set()
        for data, cause in refused.items():
            with pytest.raises(BadImage) as caught:
                await decoder.decode(data)
            assert caught.value.cause == cause
            assert "\n" not in str(caught.value)
            processes.add(decoder.process.pid if decoder.process else 0)
        assert len(processes) == 1
        assert (await decoder.decode(file_of(picture(size=(30, 30))))).size == (30, 30)

    with_decoder(test, replace(Limits(), pixels=1000))


def test_a_killed_process_comes_back() -> None:
    async def test(decoder: Decoder) -> None:
        await decoder.decode(file_of(picture()))
        assert decoder.process is not None
        before = decoder.process.pid
        os.kill(before, signal.SIGKILL)
        assert (await decoder.decode(file_of(picture(4)))).size == (40, 24)  # the picture is not to blame
        assert decoder.process.pid != before

    with_decoder(test)


def test_memory_is_limited_and_the_next_picture_is_decoded() -> None:
    deep = file_of(Image.new("RGBA", (2000, 2000), (90, 20, 200, 100)))  # laid onto white, it is in memory four times

    async def test(decoder: Decoder) -> None:
        with pytest.raises(BadImage) as caught:
            await decoder.decode(deep)
        assert caught.value.cause in ("too_large", "broken_image")
        assert (await decoder.decode(file_of(picture()))).size == (40, 24)

    with_decoder(test, replace(Limits(), decode_bytes=24 * 2**20))
    assert decode_pixels(deep).shape == (2000, 2000, 3)  # it is the memory alone that it was refused for


def test_time_is_limited() -> None:
    async def test(decoder: Decoder) -> None:
        with pytest.raises(BadImage, match=r"longer than 0.001 s"):
            await decoder.decode(file_of(picture()))
        assert decoder.process is None
        decoder.limits = Limits()
        assert (await decoder.decode(file_of(picture()))).size == (40, 24)

    with_decoder(test, replace(Limits(), decode_seconds=0.001))


def test_a_question_that_is_cancelled_leaves_no_answer_behind() -> None:
    """Or the next one would read it as its own."""

    async def test(decoder: Decoder) -> None:
        await decoder.decode(file_of(picture()))
        large = asyncio.create_task(decoder.decode(file_of(picture(size=(2000, 1500)))))
        for _ in range(5):
            await asyncio.sleep(0)
        large.cancel()
        with suppress(asyncio.CancelledError):
            await large
        assert (await decoder.decode(file_of(picture(5, (12, 20))))).size == (12, 20)

    with_decoder(test)
