"""A pass through a module, forward and backward, in a run's precision and with its ranks."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

Context = Callable[[], AbstractContextManager[Any]]


@dataclass(frozen=True)
class Passes:
    """Forward and backward passes of one step.

    Args:
        module: the learner's module, or what DDP or a compiler made of it.
        autocast: makes the context of one forward pass. Each pass has its own: autocast keeps the weights it casts,
            and those cast without gradient must not be met again with it.
        unsynced: makes the context of every pass but the last (DDP's `no_sync`).
    """

    module: Callable[..., Any]
    autocast: Context = nullcontext
    unsynced: Context = nullcontext

    def forward(self, *inputs: Any) -> Any:
        """A forward pass whose backward pass is a part of a later one's."""
        with self.unsynced(), self.autocast():
            return self.module(*inputs)

    def __call__(self, *inputs: Any, last: bool = True) -> Any:
        """Forward and backward; what is left of the output holds no activation.

        Args:
            last: whether no other backward pass follows in this step, so that ranks put their gradients together.
        """
        with nullcontext() if last else self.unsynced():
            with self.autocast():
                out = self.module(*inputs)
            out.loss.backward()
        return out
