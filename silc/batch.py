"""One rank's share of a global batch: views of images, text, and the broken samples that were met. Imports no torch.

Shape legend, used everywhere: B images of a batch (on one rank), G global views, L local views,
R global size and r local size in pixels, T text tokens, D joint embedding, K prototypes, h x w patches.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch
    from torch import Tensor


@dataclass(frozen=True)
class Views:
    """The views of a batch of images, 8-bit RGB, channels first; `None` where a recipe draws no such view."""

    original: Tensor | None  # uint8 [B, 3, R, R]: the whole image
    globals: Tensor | None  # uint8 [G, B, 3, R, R]
    locals: Tensor | None  # uint8 [L, B, 3, r, r]

    def map(self, function: Any) -> Views:
        """Apply `function` to each view tensor that exists."""
        given = self.original, self.globals, self.locals
        return Views(*(None if views is None else function(views) for views in given))


class Broken(NamedTuple):
    """A broken sample, or a fault of a shard: where it is, and the cause."""

    shard: str
    key: str  # empty for a fault of the shard itself
    cause: str  # a short stable word to count by
    detail: str  # the rest, for people


class AnyBatch(Protocol):
    """One rank's share of one global batch, for any kind of run."""

    @property
    def keys(self) -> Sequence[str]: ...
    @property
    def broken(self) -> Sequence[Broken]:
        """Samples met (and replaced) while this batch was made, in the batch's order."""
        ...

    def to(self, device: torch.device | str) -> AnyBatch:
        """The batch on a device."""
        ...


@dataclass(frozen=True)
class Batch:
    """SILC's batch: views of images, and text."""

    views: Views
    text: Tensor  # int64 [B, T]
    keys: Sequence[str]  # B sample names, for reports
    broken: Sequence[Broken] = ()
    """Samples met (and replaced) while this batch was made, in the batch's order."""

    def micro_batch(self, rows: slice) -> Batch:
        """The pairs in `rows`, as a batch."""
        return Batch(self.views.map(lambda v: v[..., rows, :, :, :]), self.text[rows], self.keys[rows])

    def to(self, device: torch.device | str) -> Batch:
        """Copy views and text to a device."""
        return self._map(lambda x: x.to(device, non_blocking=True))

    def pin_memory(self) -> Batch:
        """Copy the batch to page-locked memory, so that copies to a GPU are asynchronous."""
        return self._map(lambda x: x.pin_memory())

    def _map(self, function: Any) -> Batch:
        return replace(self, views=self.views.map(function), text=function(self.text))
