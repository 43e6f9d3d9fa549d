"""Pictures as files: made one after the other, also for those who leave."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from PIL import Image

from silc.serve.config import Limits
from silc.serve.desk import Desk
from tests.serve.conftest import picture


def test_who_leaves_lets_no_file_be_made_beside_another(monkeypatch: pytest.MonkeyPatch) -> None:
    """Or whoever asks and leaves again and again has as many made at once as there are threads, without a limit."""
    running, most, began = 0, 0, threading.Event()
    save: Callable[..., None] = Image.Image.save

    def slow(*args: Any, **more: Any) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        began.set()
        time.sleep(0.1)
        running -= 1
        save(*args, **more)

    async def main() -> None:
        desk = Desk({}, Limits(), ())
        desk.pictures.pin("one", picture())
        monkeypatch.setattr(Image.Image, "save", slow)
        leaving = asyncio.create_task(desk.png("one"))
        await asyncio.to_thread(began.wait)
        leaving.cancel()
        assert await desk.png("one")
        with suppress(asyncio.CancelledError):
            await leaving
        await desk.close()

    asyncio.run(main())
    assert most == 1
