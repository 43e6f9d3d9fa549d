"""The two kinds of linear probe: what is learnt from, the heads, and how one of them is scored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from silc.eval import metrics
from silc.eval.classify import classified
from silc.eval.embed import dealt, shared
from silc.eval.score_map import Box, ScoreMap, Window
from silc.eval.segment import segmented
from silc.probes.data import Patches, held_back, pooled
from silc.probes.heads import LinearHeads, PatchHeads

if TYPE_CHECKING:
    from torch import Tensor

    from silc.distributed import World
    from silc.eval.datasets import ClassificationSet, SegmentationSet
    from silc.predict import Model
    from silc.probes.config import ProbeConfig
    from silc.types import Evaluation


class Classification:
    """Logistic regression on standardised pooled features."""

    task, how = "linear_probe_classification", "logistic regression on pooled features, standardised"

    def __init__(
        self, config: ProbeConfig, model: Model, train: ClassificationSet, test: ClassificationSet, world: World
    ) -> None:
        self.model, self.test, self.num_classes, self.resize = model, test, len(train.classes), model.preprocess.resize
        self.batch_size = config.train.batch_size
        names = [f"the class '{name}' of {train.name}" for name in train.classes]
        self.held_back = held_back(train.labels, names, config.held_back, config.train.seed)
        self.features, self.labels = pooled(model, train, config.feature_batch, world)
        self.unseen, _ = pooled(model, test, config.feature_batch, world)

    def heads(self, l2: Sequence[float]) -> LinearHeads:
        """One for each penalty."""
        mean, std = self.features.mean(dim=0), self.features.std(dim=0, correction=0).clamp(min=1e-6)
        return LinearHeads(l2, self.num_classes, mean, std)

    def batch(self, rows: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Features and labels of training images."""
        return self.features[rows], self.labels[rows]

    def score(self, heads: LinearHeads, head: int) -> float:
        """Accuracy of a head on the images held back."""
        logits = heads.logits(head, self.features[self.held_back].to(heads.mean.device)).cpu()
        return (logits.argmax(dim=1) == self.labels[self.held_back]).double().mean().item()

    def evaluation(self, heads: LinearHeads, head: int, protocol: Mapping[str, Any]) -> Evaluation:
        """A head on the test images."""
        logits = heads.logits(head, self.unseen.to(heads.mean.device)).cpu()
        return classified(self.task, self.test, logits, protocol, self.model.name)


class Segmentation:
    """Batch norm and a linear layer on patches."""

    task, how, resize = "linear_probe_segmentation", "batch norm and a linear layer on patch features", "squash"

    def __init__(
        self, config: ProbeConfig, model: Model, train: SegmentationSet, test: SegmentationSet, world: World
    ) -> None:
        self.model, self.test, self.world, self.at_once = model, test, world, config.feature_batch
        self.batch_size = config.segmentation_batch
        self.held_back = held_back([0] * len(train), [train.name], config.held_back, config.train.seed)
        self.train, self.unseen = (Patches(model, data, config.feature_cache_gb * 5e8) for data in (train, test))
        self.batch = self.train.batch

    def heads(self, l2: Sequence[float]) -> PatchHeads:
        """One for each penalty."""
        data, width = self.train.data, self.train.examples([0])[0].shape[-1]
        return PatchHeads(l2, len(data.classes), width, ignore=data.ignore, world=self.world)

    def score(self, heads: PatchHeads, head: int) -> float:
        """mIoU of a head on the images held back."""
        counts = self._counts(heads, head, self.train, self.held_back.nonzero()[:, 0].tolist())
        return metrics.segmentation_scores(counts.sum(0))["miou"]

    def evaluation(self, heads: PatchHeads, head: int, protocol: Mapping[str, Any]) -> Evaluation:
        """A head on the test images."""
        counts = self._counts(heads, head, self.unseen, range(len(self.test)))
        by_image = torch.cat([metrics.pixel_counts(own, image) for image, own in enumerate(counts)])
        return segmented(self.task, self.test, counts.sum(0), by_image, protocol, self.model.name)

    def _counts(self, heads: PatchHeads, head: int, patches: Patches, rows: Sequence[int]) -> Tensor:
        """Pixel counts [N, C, C] of some images, at the sizes of their label maps."""

        def share() -> dict[int, Tensor]:
            found, data = {}, patches.data
            for group in dealt(len(rows), self.at_once, self.world):
                features, truths = patches.examples([rows[place] for place in group])
                logits = heads.logits(head, features.to(heads.running.device))
                for place, own, truth in zip(group, logits, truths, strict=True):
                    high, wide = truth.shape
                    labels = ScoreMap([Window(Box(0, 0, high, wide), own, high, wide)], high, wide).labels(high, wide)
                    found[place] = metrics.confusion(torch.from_numpy(truth), labels, len(data.classes), data.ignore)
            return found

        everyone = {place: own for theirs in shared(share, self.world) for place, own in theirs.items()}
        return torch.stack([everyone[place] for place in range(len(rows))])
