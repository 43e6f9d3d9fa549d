"""Waiting for a turn."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest

from silc.serve.turns import Busy, Turns


def test_in_the_order_of_coming_and_no_more_than_may_wait() -> None:
    order = []

    async def take(turns: Turns, number: int) -> None:
        async with turns.one():
            await asyncio.sleep(0)
            order.append(number)

    async def main() -> None:
        turns = Turns(2)
        tasks = [asyncio.create_task(take(turns, number)) for number in range(5)]
        ended = await asyncio.gather(*tasks, return_exceptions=True)
        assert order == [0, 1, 2]
        assert [isinstance(one, Busy) for one in ended] == [False, False, False, True, True]
        assert ended[3].seconds >= 1  # type: ignore[union-attr]
        assert turns.here == 0
        await take(turns, 5)  # the next one finds room

    asyncio.run(main())
    assert order == [0, 1, 2, 5]


def test_who_leaves_gives_the_place_up() -> None:
    async def main() -> None:
        turns, hold = Turns(1), asyncio.Event()

        async def take() -> None:
            async with turns.one():
                await hold.wait()

        first, second = asyncio.create_task(take()), asyncio.create_task(take())
        await asyncio.sleep(0)
        with pytest.raises(Busy):
            await take()
        second.cancel()
        with suppress(asyncio.CancelledError):
            await second
        third = asyncio.create_task(take())
        await asyncio.sleep(0)
        assert turns.here == 2
        hold.set()
        await asyncio.gather(first, third)

    asyncio.run(main())


def test_a_failure_ends_the_turn() -> None:
    async def main() -> None:
        turns = Turns(0)
        with pytest.raises(ZeroDivisionError):
            async with turns.one():
                _ = 1 / 0
        async with turns.one():
            pass

    asyncio.run(main())
