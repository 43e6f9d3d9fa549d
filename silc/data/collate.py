"""Pairs to SILC's batches: crops of the images with colour changes, and tokens of one caption per image."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import torch

from silc.batch import Batch, Views
from silc.data.crops import KINDS
from silc.data.streams import stream

if TYPE_CHECKING:
    from silc.data.config import PhotometricConfig
    from silc.data.crops import MultiCrop
    from silc.data.loader import RankSamples
    from silc.data.pairs import Pair
    from silc.encoder import Tokenizer


class PairCollate:
    """Builds a `Batch` from pairs; each visit draws its own crops, caption and colours."""

    def __init__(self, views: MultiCrop, tokenizer: Tokenizer, photometric: PhotometricConfig | None = None) -> None:
        """`photometric` are the colour changes of the crops; None for no change."""
        self.views = views
        self.tokenizer = tokenizer
        self.recolour = None
        if photometric and photometric.on:
            from silc.data.photometric import recolour  # import here, before the fork: torchvision takes seconds

            self.recolour = partial(recolour, photometric)

    def __call__(self, samples: RankSamples[Pair]) -> Batch:
        """The batch of these pairs."""
        captions, originals = [], []
        crops = self.views.allocate(len(samples), empty=samples.empty)
        for place, (pair, visit) in enumerate(samples):
            captions.append(pair.captions[int(stream("caption", *visit).integers(len(pair.captions)))])
            global_views, local_views = (None if views is None else views[:, place] for views in crops)
            original, *cropped = self.views(pair.pixels, visit, (global_views, local_views))
            originals += [original] if original is not None else []
            for name, crop in zip(KINDS, cropped, strict=True):
                if self.recolour is not None and crop is not None:
                    self.recolour(name, visit, crop)
        views = Views(torch.stack(originals) if originals else None, *crops)
        return Batch(views, self.tokenizer(captions), samples.keys, samples.broken)

    def num_bytes(self, num: int) -> int:
        """Approximate size in bytes of a batch of `num` pairs."""
        views = [view for view in self.views.allocate(empty=partial(torch.empty, device="meta")) if view is not None]
        pixels = sum(view.numel() for view in views) + 3 * self.views.size**2 * self.views.original
        return num * (pixels + 8 * self.tokenizer.context_length)
