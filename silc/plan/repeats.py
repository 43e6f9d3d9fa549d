"""Faster measuring of the losses' loops: run a few iterations, and count the other, equal iterations from them.

With 65,536 prototypes, or 64 ranks, the losses' loops are most of a step's operators, and many iterations are equal for
the meter. The FLOPs and payloads of an iteration depend only on its shape. Its memory also depends on variables from
the iterations before, so every sequence of three shapes is measured once. The result is exact: it equals the figures of
all iterations.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from silc.losses import contrastive, distill

if TYPE_CHECKING:
    from silc.plan.meter import Meter


@contextmanager
def counted(meter: Meter) -> Iterator[None]:
    """Inside, the losses run only a few iterations of their loops, and the meter counts all of them."""
    loops: tuple[tuple[Any, str, Callable[[Any], Hashable]], ...] = (
        (distill, "in_blocks", _length),
        (contrastive, "in_blocks", lambda block: (_length(block[1]), _length(block[2]))),
        (contrastive, "hops", lambda hop: "hop"),
    )
    whole = [getattr(module, name) for module, name, _ in loops]
    for (module, name, shape), rounds in zip(loops, whole, strict=True):
        setattr(module, name, _few(rounds, shape, meter))
    try:
        yield
    finally:
        for (module, name, _), rounds in zip(loops, whole, strict=True):
            setattr(module, name, rounds)


def _few(
    rounds: Callable[..., Iterable[Any]], shape: Callable[[Any], Hashable], meter: Meter
) -> Callable[..., Iterable[Any]]:
    return lambda *args: _Rounds(list(rounds(*args)), shape, meter)


class _Rounds:
    """The iterations (rounds) of a loop. Iterating yields only the rounds to measure, and counts the others."""

    def __init__(self, rounds: list[Any], shape: Callable[[Any], Hashable], meter: Meter) -> None:
        self.rounds, self.meter = rounds, meter
        self.shapes = [shape(own) for own in rounds]

    def __iter__(self) -> Iterator[Any]:
        flops, payloads = self.meter.flops, self.meter.payloads
        taken: dict[Hashable, tuple[Counter[str], Counter[tuple[str, str]]]] = {}
        needed = needed_rounds(self.shapes)
        for number, (own, shape) in enumerate(zip(self.rounds, self.shapes, strict=True)):
            if number in needed:
                before = flops.copy(), payloads.copy()
                yield own
                taken[shape] = flops - before[0], payloads - before[1]
            else:
                flops.update(taken[shape][0])
                payloads.update(taken[shape][1])


def needed_rounds(shapes: list[Hashable]) -> set[int]:
    """Numbers of the rounds to run: they contain every sequence of three shapes once, and end with the last two rounds.

    >>> sorted(needed_rounds(["full"] * 256 + ["rest"]))
    [0, 1, 2, 254, 255, 256]
    """
    before: list[Hashable] = [None, None, *shapes]
    seen: set[tuple[Hashable, ...]] = set()
    needed: set[int] = set()
    for number in range(len(shapes)):
        three = tuple(before[number : number + 3])
        if three not in seen:
            seen.add(three)
            needed.update(range(max(number - 2, 0), number + 1))
    if [shapes[number] for number in sorted(needed)[-2:]] != shapes[-2:]:
        needed.update(range(len(shapes) - 2, len(shapes)))
    return needed


def _length(rows: slice) -> int:
    return int(rows.stop - rows.start)
