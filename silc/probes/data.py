"""Labelled images as frozen features, pooled or of patches, and which of them the penalty is chosen on."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from silc.eval.embed import ALONE, finite, image_features
from silc.eval.fewshot import shuffled_by_class
from silc.predict import TOWER
from silc.types import BadInput

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from PIL import Image
    from torch import Tensor

    from silc.distributed import World
    from silc.eval.datasets import ClassificationSet, SegmentationSet
    from silc.predict import Model


def pooled(model: Model, data: ClassificationSet, batch_size: int, world: World = ALONE) -> tuple[Tensor, Tensor]:
    """Features [N, W] before projection and normalisation, by the model's own preprocessing, and labels int64 [N].

    Ranks share the work, and all have the result.

    Raises:
        BadInput: features that are not finite.
    """
    features = image_features(model, data.images, model.preprocess, batch_size, pooled=True, world=world)
    return features, torch.tensor(data.labels)


class Patches:
    """Patch features of a segmentation set, images squashed to the model's size.

    Args:
        room: bytes of features that are kept once they were computed.
    """

    def __init__(self, model: Model, data: SegmentationSet, room: float = 0.0) -> None:
        self.model, self.data, self.room = model, data, room
        self.preprocess = replace(model.preprocess, resize="squash")
        self.kept: dict[int, Tensor] = {}
        self.threads = ThreadPoolExecutor(8)

    def examples(self, rows: Sequence[int]) -> tuple[Tensor, list[NDArray[np.int64]]]:
        """Features [B, h, w, W], as the tower leaves them, and label maps [H, W] of any sizes.

        Raises:
            BadInput: features that are not finite; see also `SegmentationSet.example`.
        """
        images, truths = zip(*self.threads.map(self.data.example, rows), strict=True)
        new = {row: image for row, image in zip(rows, images, strict=True) if row not in self.kept}
        fresh = dict(zip(new, self._features(list(new.values())), strict=True)) if new else {}
        features = torch.stack([fresh[row] if row in fresh else self.kept[row] for row in rows])
        for row, own in fresh.items():
            if own.nbytes <= self.room:
                self.kept[row] = own.clone()  # a part would hold the whole batch
                self.room -= own.nbytes
        return features, list(truths)

    def batch(self, rows: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Features, and labels int64 [B, S, S] of the pixels under the centres of the model's."""
        features, truths = self.examples(rows)
        return features, torch.stack([nearest(truth, self.preprocess.size) for truth in truths])

    @torch.no_grad()
    def _features(self, images: Sequence[Image.Image]) -> Tensor:
        pixels = torch.stack(list(self.threads.map(self.preprocess, images))).to(self.model.device)
        return finite(self.model.encode_dense(self.preprocess.normalize(pixels), TOWER).cpu(), self.model)


def nearest(truth: NDArray[Any], side: int) -> Tensor:
    """A label map [H, W] as int64 [side, side]: of each pixel the label under its centre."""
    rows, columns = (((np.arange(side) + 0.5) * length / side).astype(int) for length in truth.shape)
    return torch.from_numpy(truth[rows[:, None], columns])


def held_back(labels: Sequence[int], names: Sequence[str], share: float, seed: int) -> Tensor:
    """Which images, bool [N], the penalty is chosen on: a share of each class, at least one and never all.

    Args:
        labels: the class of each; all 0 where images have no class.
        names: of the classes, as a complaint is to call them.

    Raises:
        BadInput: a class with one image.
    """
    held = torch.zeros(len(labels), dtype=torch.bool)
    for name, own in zip(names, shuffled_by_class(np.asarray(labels), len(names), seed), strict=True):
        if len(own) == 1:
            raise BadInput(
                f"{name} has one training image; needed are two, one to learn from and one to choose the penalty on; "
                "add images, or leave it out"
            )
        if len(own):
            held[own[: min(len(own) - 1, max(1, round(share * len(own))))]] = True
    return held
