"""Guards for losses: no autocast to a lower precision, and no compilation, whoever calls them."""

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
    """Return `function` so that a compiler skips it.

    torch.compiler.disable alone loads the compiler even if nothing is compiled; that takes as long as loading torch.
    """

    def call(*args: object) -> Tensor:
        # A compiler that traces this call takes the first branch, and stops there.
        return torch.compiler.disable(function)(*args) if torch.compiler.is_compiling() else function(*args)

    return call
