"""What losses and objective ask of the other ranks; passed in, never looked up. Imports no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from torch import Tensor


class Ring(Protocol):
    """Ranks in a circle, each of which passes on to the next; passed in, so that losses look nothing up."""

    @property
    def size(self) -> int: ...

    def shift(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Hand tensors to the next rank and take the previous one's, of the same shapes; without gradient."""
        ...


class Collectives(Ring, Protocol):
    """What the objective asks of the other ranks."""

    @property
    def rank(self) -> int: ...

    def mean(self, x: Tensor) -> Tensor:
        """Mean over the ranks, without gradient."""
        ...
