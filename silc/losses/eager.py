"""Functions that stay in eager mode whoever compiles their caller."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor


def eager(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """`function`, which a compiler leaves alone.

    torch.compiler.disable alone would load the compiler, as long as loading torch takes, where nothing is compiled.
    """

    def call(*args: object) -> Tensor:
        # A compiler that follows this call takes the second way, and stops there.
        return torch.compiler.disable(function)(*args) if torch.compiler.is_compiling() else function(*args)

    return call
