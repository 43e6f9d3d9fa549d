"""Losses are computed in float32, whatever the towers run in."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor


def no_autocast(x: Tensor) -> AbstractContextManager[object]:
    """A context in which nothing on x's device is cast down (the meta device, which only counts, has no autocast)."""
    return nullcontext() if x.is_meta else torch.autocast(x.device.type, enabled=False)
