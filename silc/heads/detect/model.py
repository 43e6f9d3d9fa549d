"""OWL-ViT in training: two towers and the heads, from pixels, names and boxes to a loss."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from silc.heads.detect.head import DetectionHead, Found, unit
from silc.heads.detect.loss import Objects, detection_loss
from silc.heads.run import Learnt, in_micro_batches
from silc.heads.tuning import TunedLearner
from silc.training.protocols import ParamGroup

if TYPE_CHECKING:
    from silc.heads.detect.config import LossConfig
    from silc.heads.detect.data import BoxBatch
    from silc.models.image import ImageTower
    from silc.models.text import TextTower
    from silc.preprocess import Preprocess
    from silc.training.protocols import Passes


class Detector(nn.Module):
    """Towers and heads.

    Args:
        visual, text: the towers; the image tower's projection is not used.
        head: the detection heads on its patches.
        preprocess: preprocessing of the image tower.
        weights: weights of the loss.
    """

    def __init__(
        self, visual: ImageTower, text: TextTower, head: DetectionHead, preprocess: Preprocess, weights: LossConfig
    ) -> None:
        super().__init__()
        self.visual, self.text, self.head = visual, text, head
        self.preprocess, self.weights = preprocess, weights

    def look(self, images: Tensor, queries: Tensor) -> Found:
        """Detections in normalised images [B, 3, S, S] for queries [Q, D] or [B, Q, D]."""
        found: Found = self.head(*self._tokens(images), queries)
        return found

    def examples(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Boxes [B, N, 4] of normalised images [B, 3, S, S], and what can ask for the like of each: features [B, N, D].

        The features are not normalised.
        """
        return self.head.examples(*self._tokens(images))

    def _tokens(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Patches [B, h, w, C] and the pooled token [B, C] of images."""
        trunk = self.visual.trunk
        tokens = trunk.tokens(images).final
        patches = self.visual.without_prefix(tokens).unflatten(1, self.visual.grid(images))
        return patches, trunk.forward_head(tokens)

    def forward(
        self,
        pixels: Tensor,
        boxes: Tensor,
        labels: Tensor,
        queries: Tensor,
        known: Tensor,
        sides: Tensor,
        share: float,
        texts: Tensor,
    ) -> Learnt:
        """Loss, multiplied by `share`, of a batch (`BoxBatch`) or of some of its rows."""
        rows, place = queries.clamp(min=0).unique(return_inverse=True)  # rows of the batch's texts
        images = self.preprocess.normalize(pixels)
        found = self.look(images, unit(self.text(texts[rows]))[place])
        asked = known_of_patches(known, sides, self.visual.grid(images))
        there = labels.any(dim=2)  # the other rows are padding
        truth = [
            Objects(names[own].to(found.boxes.dtype), placed[own])
            for names, placed, own in zip(labels, boxes, there, strict=True)
        ]
        loss = detection_loss(found, truth, asked, self.weights)
        return Learnt(loss.total * share, loss.parts)


def known_of_patches(known: Tensor, sides: Tensor, grid: tuple[int, int]) -> Tensor:
    """Names that count for each patch, bool [B, N, Q]: those fully labelled in the part where its centre lies.

    Args:
        known: bool [B, P, Q], names that are fully labelled in each part.
        sides: int64 [B], n for a picture of n x n parts.
        grid: (h, w), N patches.
    """
    rows, columns = (
        ((torch.arange(length, device=sides.device) + 0.5) / length * sides[:, None]).long() for length in grid
    )
    parts = (rows[:, :, None] * sides[:, None, None] + columns[:, None]).flatten(1)
    return known.gather(1, parts[..., None].expand(-1, -1, known.shape[-1]))


@dataclass
class DetectLearner(TunedLearner):
    """The `Learner` of a detector.

    Args:
        detector: towers and heads.
        text_lr: fraction of the learning rate for the text tower.
        micro_batch: images at a time; 0: all.
    """

    detector: Detector
    text_lr: float = 0.04
    micro_batch: int = 0

    @property
    def module(self) -> nn.Module:
        return self.detector

    def blocks(self) -> Iterable[nn.Module]:
        """Blocks of the towers."""
        return [*self.detector.visual.trunk.blocks, *self.detector.text.transformer.resblocks]

    def groups(self) -> Mapping[str, ParamGroup]:
        """Rate factor and decay of each parameter: `text_lr` for the text tower; vectors do not decay."""
        return {
            name: ParamGroup(self.text_lr if name.startswith("text.") else 1.0, p.ndim > 1)
            for name, p in self.detector.named_parameters()
            if p.requires_grad
        }

    def gradients(self, passes: Passes, batch: BoxBatch, hyper: object) -> Learnt:
        """Compute the gradient of the whole batch, in one pass or in several."""
        rows = (batch.pixels, batch.boxes, batch.labels, batch.queries, batch.known, batch.sides)
        return in_micro_batches(passes, rows, self.micro_batch, batch.texts)
