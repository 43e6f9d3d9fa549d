"""The thread that computes: one at a time, ended where nobody waits or where it takes too long."""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress

import pytest
import torch
from torch import nn

from silc.serve.computing import Computing, TooLong


class Layers(nn.Module):
    """Layers without end, unless somebody ends them; counts those that ran."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.ran, self.began = nn.Identity(), 0, threading.Event()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.began.set()
        for _ in range(10_000_000):
            x = self.layer(x)
            self.ran += 1
        return x


def test_it_gives_what_the_work_gives_and_its_errors() -> None:
    async def main() -> None:
        computing = Computing(4, 60)
        assert await computing.run(lambda: 7) == 7
        with pytest.raises(ZeroDivisionError):
            await computing.run(lambda: 1 // 0)
        assert await asyncio.gather(*(computing.run(lambda n=n: n) for n in range(4))) == [0, 1, 2, 3]
        computing.close()

    asyncio.run(main())


def test_cancelled_work_stops_at_a_layer_before_the_next_begins() -> None:
    layers = Layers()

    async def main() -> None:
        computing = Computing(4, 60)
        work = asyncio.create_task(computing.run(lambda: layers(torch.zeros(1))))
        await asyncio.to_thread(layers.began.wait)
        work.cancel()
        with pytest.raises(asyncio.CancelledError):
            await work
        ran = layers.ran
        assert await computing.run(lambda: layers.ran) == ran < 10_000_000
        computing.close()

    asyncio.run(main())


def test_work_that_takes_too_long_is_told_so_and_the_next_is_done() -> None:
    async def main() -> None:
        computing = Computing(4, 0.05)
        with pytest.raises(TooLong, match=r"longer than 0.05 s; .*--seconds"):
            await computing.run(lambda: Layers()(torch.zeros(1)))
        assert await computing.run(lambda: nn.Identity()(1)) == 1
        computing.close()

    asyncio.run(main())


def test_who_waits_and_leaves_is_never_computed() -> None:
    layers, seen = Layers(), []

    async def main() -> None:
        computing = Computing(4, 60)
        first = asyncio.create_task(computing.run(lambda: layers(torch.zeros(1))))
        await asyncio.to_thread(layers.began.wait)
        second = asyncio.create_task(computing.run(lambda: seen.append(2)))
        await asyncio.sleep(0)
        second.cancel()
        first.cancel()
        for one in (first, second):
            with suppress(asyncio.CancelledError):
                await one
        computing.close()

    asyncio.run(main())
    assert seen == []


def test_layers_of_other_threads_are_left_alone() -> None:
    async def main() -> None:
        computing, mine = Computing(4, 0.05), nn.Identity()
        work = asyncio.create_task(computing.run(lambda: Layers()(torch.zeros(1))))
        while not work.done():
            assert mine(1) == 1
            await asyncio.sleep(0)
        with suppress(TooLong):
            await work
        computing.close()

    asyncio.run(main())
