"""Pairs to SILC's batches: the views of an image, the tokens of one caption, and the colours of the views."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import torch

from silc.data.photometric import draw, recolour
from silc.data.streams import stream
from silc.types import Batch, Views

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np

    from silc.data.config import PhotometricConfig
    from silc.data.crops import MultiCrop
    from silc.data.loader import Share, Turn
    from silc.data.pairs import Pair
    from silc.types import Tokenizer


class PairCollate:
    """Each visit has its own crops, caption and colours."""

    def __init__(
        self,
        views: MultiCrop,
        tokenizer: Tokenizer,
        photometric: PhotometricConfig | None = None,
        *,
        device: torch.device | None = None,
    ) -> None:
        """Args:
        photometric: what is done to the colours of crops.
        device: where batches will go. An accelerator changes the colours of a whole batch itself; for any other the
            workers do, view by view.
        """
        self.views = views
        self.tokenizer = tokenizer
        self.photometric = photometric if photometric and photometric.on else None
        self.late = device is not None and device.type != "cpu"

    def __call__(self, share: Share[Pair]) -> Batch:
        """The batch of a share of pairs; its colours are only drawn where they are changed late."""
        captions, originals = [], []
        crops = self.views.room(len(share), empty=share.empty)
        for place, (pair, turn) in enumerate(share):
            captions.append(pair.captions[int(stream("caption", *turn).integers(len(pair.captions)))])
            global_views, local_views = (None if views is None else views[:, place] for views in crops)
            original, _, _ = self.views(pair.pixels, turn, (global_views, local_views))
            originals += [original] if original is not None else []
        views = Views(torch.stack(originals) if originals else None, *crops)
        batch = Batch(views, self.tokenizer(captions), share.keys, share.broken)
        if self.photometric is None:
            return batch
        uncoloured = _Uncoloured(**vars(batch), drawn=self._draw(self.photometric, share.turns))
        return uncoloured if self.late else uncoloured.to("cpu")

    def num_bytes(self, num: int) -> int:
        """Of the batch of so many pairs, about."""
        views = [view for view in self.views.room(empty=partial(torch.empty, device="meta")) if view is not None]
        pixels = sum(view.numel() for view in views) + 3 * self.views.size**2 * self.views.original
        return num * (pixels + 8 * self.tokenizer.context_length)

    def _draw(self, config: PhotometricConfig, turns: Sequence[Turn]) -> tuple[np.ndarray, np.ndarray]:
        crops = self.views.config
        return draw(config, "global", turns, crops.num_global), draw(config, "local", turns, crops.num_local)


@dataclass(frozen=True)
class _Uncoloured(Batch):
    """A batch whose colours change where it goes."""

    drawn: tuple[np.ndarray, ...] = ()
    """What is to be done to global and local views, DRAWN [G, B] and [L, B]."""

    def to(self, device: torch.device | str) -> Batch:
        """Copy to a device and change the colours there."""
        batch = super().to(device)
        crops = zip((batch.views.globals, batch.views.locals), self.drawn, strict=True)
        coloured = (None if views is None else recolour(views, drawn) for views, drawn in crops)
        return replace(batch, views=Views(batch.views.original, *coloured))
