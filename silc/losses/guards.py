"""What losses are kept from, whoever calls them: being cast down, and being compiled."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor


def no_autocast(x: Tensor) -> AbstractContextManager[object]:
    """A context in which nothing on x's device is cast down (the meta device, which only counts, has no autocast)."""
    return nullcontext() if x.is_meta else torch.autocast(x.device.type, enabled=False)


def eager(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """`function`, which a compiler leaves alone.

    torch.compiler.disable alone would load the compiler, as long as loading torch takes, where nothing is compiled.
    """

    def call(*args: object) -> Tensor:
        # A compiler that follows this call takes the second way, and stops there.
        return torch.compiler.disable(function)(*args) if torch.compiler.is_compiling() else function(*args)

    return call
