"""The probes: of images, on pooled features (k nearest neighbours, logistic regression), and of pixels, on patch
features (batch norm and a linear layer, as in DINOv2's linear segmentation).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F

from silc.errors import BadInput
from silc.eval import metrics, suite
from silc.eval.classify import classified
from silc.eval.embed import dealt, finite, image_features, shared
from silc.eval.fewshot import shuffled_by_class
from silc.eval.score_map import Box, ScoreMap, Window
from silc.eval.segment import segmented
from silc.loading import load_any
from silc.predict import TOWER
from silc.probes.heads import Heads
from silc.terminal import say

if TYPE_CHECKING:
    from torch import Tensor

    from silc.distributed import World
    from silc.eval.asked import Task
    from silc.eval.datasets import ClassificationSet, SegmentationSet
    from silc.probes.config import ProbeConfig
    from silc.records import Evaluation


class Frozen:
    """A frozen model, and the images of a task.

    Raises:
        BadInput: the model or an image set cannot be used.
    """

    train: Any  # a ClassificationSet or SegmentationSet, as `test`

    def __init__(self, config: ProbeConfig, task: Task, world: World) -> None:
        source = task.source
        assert source.read_train is not None
        weights = "both" if config.weights == "auto" else config.weights
        loaded = load_any(config.init, weights=weights, device=world.device)
        self.config, self.task, self.world, self.model = config, task.kind, world, loaded.best()
        self.preprocess = self.model.preprocess
        self.train, self.test = (
            suite.held(read(), config.exif_orientation) for read in (source.read_train, source.read)
        )
        if world.is_main:
            say(f"{task.name}: {len(self.train.images):,} images to learn from, {len(self.test.images):,} to score")
        self.checksums = {"model": loaded.checksum, **self.listed()}

    def listed(self) -> dict[str, str]:
        """Checksum of the list of training files (images and label maps), by its name in checkpoints."""
        return {"files": _checksum(self.train.files)}

    def pooled(self, data: ClassificationSet) -> tuple[Tensor, Tensor]:
        """Features [N, W] before projection and normalisation, and labels int64 [N]; ranks share the work.

        Raises:
            BadInput: features that are not finite.
        """
        at = self.preprocess, self.config.feature_batch
        return image_features(self.model, data.images, *at, pooled=True, world=self.world), torch.tensor(data.labels)

    def protocol(self, **settings: Any) -> dict[str, Any]:
        """Every setting that affects the score."""
        preprocess = self.preprocess
        counts = {"num_images": len(self.test.images), "num_classes": len(self.test.classes)}
        pixels = {"image_size": preprocess.size, "resize": f"{preprocess.resize}, {preprocess.interpolation}"}
        orientation = {"exif_orientation": self.config.exif_orientation}
        return {"split": "train -> test"} | counts | settings | pixels | orientation


class Neighbours(Frozen):
    """DINO's k-NN."""

    def evaluation(self) -> Evaluation:
        """Evaluation on the test images: each gets the class for which its nearest training images vote."""
        (train, labels), (queries, _) = self.pooled(self.train), self.pooled(self.test)
        train, labels, queries = (x.to(self.model.device) for x in (train, labels, queries))
        settings: dict[str, Any] = {"k": self.config.k, "temperature": self.config.temperature}
        scores = metrics.neighbour_votes(train, labels, queries, len(self.test.classes), **settings).cpu()
        method = "DINO's weighted votes, pooled features of unit length"
        protocol = self.protocol(method=method, **settings)
        return classified(self.task, self.test, scores, protocol, self.model.name)


class Classification(Frozen):
    """Logistic regression: its training data, its heads, and the scores of a head."""

    data, batched_by = "classification", "train.batch_size"
    method = "logistic regression on pooled features, standardised"

    def __init__(self, config: ProbeConfig, task: Task, world: World) -> None:
        super().__init__(config, task, world)
        names = [f"the class '{name}' of {self.train.name}" for name in self.train.classes]
        self.held_back = held_back(self.train.labels, names, self.config)
        self.features, self.labels = self.pooled(self.train)
        self.unseen, _ = self.pooled(self.test)

    def listed(self) -> dict[str, str]:
        """A checksum of the images and their classes."""
        return {"images": _checksum([*self.train.files, *self.train.labels])}

    def heads(self, l2: Sequence[float]) -> Heads:
        """One head for each penalty."""
        statistics = torch.stack([self.features.mean(dim=0), self.features.var(dim=0, correction=0)])
        return Heads(l2, len(self.test.classes), statistics)

    def batch(self, rows: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Features [B, 1, 1, W] and labels [B, 1, 1] of training images."""
        return self.features[rows, None, None], self.labels[rows, None, None]

    def score(self, heads: Heads, head: int) -> float:
        """Accuracy of a head on the images held back."""
        logits = heads.logits(head, self.features[self.held_back, None, None]).flatten(1).cpu()
        return (logits.argmax(dim=1) == self.labels[self.held_back]).double().mean().item()

    def evaluation(self, heads: Heads, head: int, protocol: Mapping[str, Any]) -> Evaluation:
        """Evaluation of a head on the test images."""
        logits = heads.logits(head, self.unseen[:, None, None]).flatten(1).cpu()
        return classified(self.task, self.test, logits, protocol, self.model.name)


class Segmentation(Frozen):
    """Linear layer on patches, with the parts of `Classification`; images are squashed to the model's size."""

    data, batched_by = "segmentation", "segmentation_batch"
    method = "batch norm and a linear layer on patch features"

    def __init__(self, config: ProbeConfig, task: Task, world: World) -> None:
        super().__init__(config, task, world)
        self.preprocess = replace(self.model.preprocess, resize="squash")
        self.held_back = held_back([0] * len(self.train), [self.train.name], self.config)
        self.kept: dict[tuple[bool, int], Tensor] = {}
        self.room = self.config.feature_cache_gb * 1e9
        self.threads = ThreadPoolExecutor(8)

    def heads(self, l2: Sequence[float]) -> Heads:
        """One head for each penalty."""
        width = self.examples(self.train, [0])[0].shape[-1]
        begin = torch.stack([torch.zeros(width), torch.ones(width)])
        return Heads(l2, len(self.train.classes), begin, self.world, self.train.ignore)

    def batch(self, rows: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Features of training images, and labels int64 [B, S, S] at the centres of the model's input pixels."""
        features, truths = self.examples(self.train, rows)
        size = (self.preprocess.size, self.preprocess.size)
        return features, torch.cat(
            [F.interpolate(truth[None, None].double(), size, mode="nearest-exact")[0].long() for truth in truths]
        )

    def score(self, heads: Heads, head: int) -> float:
        """mIoU of a head on the images held back."""
        counts, _ = self._counts(heads, head, self.train, self.held_back.nonzero()[:, 0].tolist())
        return metrics.segmentation_scores(counts)["miou"]

    def evaluation(self, heads: Heads, head: int, protocol: Mapping[str, Any]) -> Evaluation:
        """Evaluation of a head on the test images."""
        counts, by_image = self._counts(heads, head, self.test, range(len(self.test)))
        return segmented(self.task, self.test, counts, by_image, protocol, self.model.name)

    def examples(self, data: SegmentationSet, rows: Sequence[int]) -> tuple[Tensor, Sequence[Tensor]]:
        """Features [B, h, w, W], as the tower leaves them, and label maps int64 [H, W] of any sizes.

        Raises:
            BadInput: features that are not finite; see also `SegmentationSet.example`.
        """

        def read(row: int) -> tuple[Tensor, Tensor]:
            image, truth = data.example(row)
            return self.preprocess(image), torch.from_numpy(truth)

        pixels, truths = zip(*self.threads.map(read, rows), strict=True)
        keys = [(data is self.test, row) for row in rows]
        return torch.stack(list(map(self._features, keys, pixels))), truths

    def _features(self, key: tuple[bool, int], pixels: Tensor) -> Tensor:
        """Features of one image, computed alone: in a batch, their last bits would depend on the other images."""
        if key in self.kept:
            return self.kept[key]
        normalised = self.preprocess.normalize(pixels[None]).to(self.model.device)
        found = finite(self.model.encode_dense(normalised, TOWER)[0].cpu(), self.model)
        if found.nbytes <= self.room:
            self.kept[key], self.room = found, self.room - found.nbytes
        return found

    def _counts(self, heads: Heads, head: int, data: SegmentationSet, rows: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Pixel counts [C, C] of images at the sizes of their label maps, and each one's `metrics.pixel_counts`."""
        classes = len(data.classes)

        def share() -> tuple[Tensor, Tensor]:
            total, by_image = torch.zeros(classes, classes, dtype=torch.int64), [torch.empty(0, 5, dtype=torch.int64)]
            for group in dealt(len(rows), self.config.feature_batch, self.world):
                features, truths = self.examples(data, [rows[place] for place in group])
                for place, own, truth in zip(group, heads.logits(head, features), truths, strict=True):
                    high, wide = truth.shape
                    labels = ScoreMap([Window(Box(0, 0, high, wide), own, high, wide)], high, wide).labels(high, wide)
                    counts = metrics.confusion(truth, labels, classes, data.ignore)
                    total += counts
                    by_image.append(metrics.pixel_counts(counts, place))
            return total, torch.cat(by_image)

        totals, by_image = zip(*shared(share, self.world), strict=True)
        return torch.stack(totals).sum(dim=0), torch.cat(by_image)


def _checksum(listed: Sequence[object]) -> str:
    return hashlib.sha256("\n".join(map(str, listed)).encode()).hexdigest()[:16]


def held_back(labels: Sequence[int], names: Sequence[str], config: ProbeConfig) -> Tensor:
    """Which images are held back to choose the penalty, bool [N]: a share of each class, at least one and never all.

    Args:
        labels: the class of each; all 0 where images have no class.
        names: names of the classes for error messages.

    Raises:
        BadInput: a class with one image.
    """
    held = torch.zeros(len(labels), dtype=torch.bool)
    for name, own in zip(names, shuffled_by_class(np.asarray(labels), len(names), config.train.seed), strict=True):
        if len(own) == 1:
            needed = (
                "it needs two, one to learn from and one to choose the penalty on; add images, or leave the task out"
            )
            raise BadInput(f"{name} has one training image; {needed}")
        held[own[: min(len(own) - 1, max(1, round(config.held_back * len(own))))]] = True
    return held
