"""Segmentation by patch features: batch norm and a linear layer, as DINOv2 (BN, then a 1x1 convolution)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

import torch
import torch.nn.functional as F

from silc.eval import metrics
from silc.eval.embed import dealt, finite, shared
from silc.eval.score_map import Box, ScoreMap, Window
from silc.eval.segment import segmented
from silc.predict import TOWER
from silc.probes.learner import Heads, held_back

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

    from silc.distributed import World
    from silc.eval.datasets import SegmentationSet
    from silc.predict import Model
    from silc.probes.config import ProbeConfig
    from silc.records import Evaluation


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

    def examples(self, rows: Sequence[int]) -> tuple[Tensor, list[Tensor]]:
        """Features [B, h, w, W], as the tower leaves them, and label maps int64 [H, W] of any sizes.

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
        return features, [torch.from_numpy(truth) for truth in truths]

    def batch(self, rows: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Features, and labels int64 [B, S, S] of the pixels under the centres of the model's."""
        features, truths = self.examples(rows)
        size = (self.preprocess.size, self.preprocess.size)
        return features, torch.cat(
            [F.interpolate(truth[None, None].double(), size, mode="nearest-exact")[0].long() for truth in truths]
        )

    def _features(self, images: Sequence[Image.Image]) -> Tensor:
        """Of each image alone: by its neighbours in a batch they would differ in the last bits, and a resumed run has
        others.
        """
        pixels = [self.preprocess.normalize(own[None]) for own in self.threads.map(self.preprocess, images)]
        found = [self.model.encode_dense(own.to(self.model.device), TOWER).cpu() for own in pixels]
        return finite(torch.cat(found), self.model)


class Segmentation:
    """What is learnt from, the heads, and how one of them is scored."""

    task, how, resize = "linear_probe_segmentation", "batch norm and a linear layer on patch features", "squash"
    unread: ClassVar = {"train.batch_size"}

    def __init__(
        self, config: ProbeConfig, model: Model, train: SegmentationSet, test: SegmentationSet, world: World
    ) -> None:
        self.model, self.test, self.world, self.at_once = model, test, world, config.feature_batch
        self.batch_size = config.segmentation_batch
        self.held_back = held_back([0] * len(train), [train.name], config.held_back, config.train.seed)
        self.train, self.unseen = (Patches(model, data, config.feature_cache_gb * 5e8) for data in (train, test))
        self.batch = self.train.batch

    def heads(self, l2: Sequence[float]) -> Heads:
        """One for each penalty."""
        width, data = self.train.examples([0])[0].shape[-1], self.train.data
        begin = torch.stack([torch.zeros(width), torch.ones(width)])
        return Heads(l2, len(data.classes), begin, batch_norm=True, ignore=data.ignore, world=self.world)

    def score(self, heads: Heads, head: int) -> float:
        """mIoU of a head on the images held back."""
        counts = self._counts(heads, head, self.train, self.held_back.nonzero()[:, 0].tolist())
        return metrics.segmentation_scores(counts.sum(0))["miou"]

    def evaluation(self, heads: Heads, head: int, protocol: Mapping[str, Any]) -> Evaluation:
        """A head on the test images."""
        counts = self._counts(heads, head, self.unseen, range(len(self.test)))
        by_image = torch.cat([metrics.pixel_counts(own, image) for image, own in enumerate(counts)])
        return segmented(self.task, self.test, counts.sum(0), by_image, protocol, self.model.name)

    def _counts(self, heads: Heads, head: int, patches: Patches, rows: Sequence[int]) -> Tensor:
        """Pixel counts [N, C, C] of some images, at the sizes of their label maps."""

        def share() -> dict[int, Tensor]:
            found, data = {}, patches.data
            for group in dealt(len(rows), self.at_once, self.world):
                features, truths = patches.examples([rows[place] for place in group])
                logits = heads.logits(head, features)
                for place, own, truth in zip(group, logits, truths, strict=True):
                    high, wide = truth.shape
                    labels = ScoreMap([Window(Box(0, 0, high, wide), own, high, wide)], high, wide).labels(high, wide)
                    found[place] = metrics.confusion(truth, labels, len(data.classes), data.ignore)
            return found

        everyone = {place: own for theirs in shared(share, self.world) for place, own in theirs.items()}
        return torch.stack([everyone[place] for place in range(len(rows))])
