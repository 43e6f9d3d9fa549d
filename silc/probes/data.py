"""Labelled images, frozen: pooled features computed once, patch features when they are asked for, and what of the
training images is held back to choose the penalty on.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from silc.eval.embed import ALONE, finite, image_features, silent
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
    from silc.eval.embed import Progress
    from silc.types import DualEncoder


class Pooled(NamedTuple):
    """Pooled features and classes."""

    features: Tensor  # float32 [N, W], before projection and normalisation
    labels: Tensor  # int64 [N]


def pooled(
    model: DualEncoder, data: ClassificationSet, batch_size: int, progress: Progress = silent, world: World = ALONE
) -> Pooled:
    """Features of every image, by the model's own preprocessing; ranks share the work and all have the result.

    Raises:
        BadInput: features that are not finite.
    """
    features = image_features(model, data.images, model.preprocess, batch_size, progress, pooled=True, world=world)
    return Pooled(features, torch.tensor(data.labels))


class Patches:
    """Patch features of a segmentation set, images squashed to the model's size.

    Args:
        keep: bytes of features that are kept once they were computed.
    """

    def __init__(self, model: DualEncoder, data: SegmentationSet, keep: float = 0.0) -> None:
        self.model, self.data, self.room = model, data, keep
        self.preprocess = replace(model.preprocess, resize="squash")
        self.kept: dict[int, Tensor] = {}
        self.threads = ThreadPoolExecutor(8)

    def examples(self, rows: Sequence[int]) -> tuple[Tensor, list[NDArray[np.int64]]]:
        """Features float32 [B, h, w, W], as the tower leaves them, and label maps [H, W] of any sizes.

        Raises:
            BadInput: features that are not finite; see also `SegmentationSet.example`.
        """
        images, truths = zip(*self.threads.map(self.data.example, rows), strict=True)
        new = {row: image for row, image in zip(rows, images, strict=True) if row not in self.kept}
        fresh = dict(zip(new, self._features(list(new.values())), strict=True)) if new else {}
        features = torch.stack([fresh[row] if row in fresh else self.kept[row] for row in rows])
        for row, own in fresh.items():
            if own.nbytes <= self.room:
                self.kept[row] = own.clone()  # not the whole batch with it
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


def held_back_of_classes(data: ClassificationSet, share: float, seed: int) -> Tensor:
    """Which training images, bool [N], the penalty is chosen on: a share of each class, at least one and never all.

    Raises:
        BadInput: a class with one image.
    """
    held = torch.zeros(len(data.labels), dtype=torch.bool)
    by_class = shuffled_by_class(np.asarray(data.labels), len(data.classes), seed)
    for name, own in zip(data.classes, by_class, strict=True):
        if len(own) == 1:
            raise BadInput(
                f"{data.name}: the class '{name}' has one image in {data.split}; needed are two, one to learn from and "
                "one to choose the penalty on; add images, or leave the class out"
            )
        held[own[: _count(len(own), share)]] = True
    return held


def held_back_of_images(num_images: int, name: str, share: float, seed: int) -> Tensor:
    """The same of a segmentation set's images, whatever is in them.

    Raises:
        BadInput: there is one image.
    """
    if num_images == 1:
        raise BadInput(f"{name} has one training image; needed are two, one to learn from and one to choose on")
    held = torch.zeros(num_images, dtype=torch.bool)
    held[np.random.default_rng(seed).permutation(num_images)[: _count(num_images, share)]] = True
    return held


def _count(total: int, share: float) -> int:
    return min(total - 1, max(1, round(share * total))) if total else 0
