"""OWL-ViT as training sees it: two towers and the heads, from pixels, names and boxes to a loss."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from silc.heads.detect.head import DetectionHead, Found, unit
from silc.heads.detect.loss import Objects, detection_loss
from silc.heads.run import Learnt, in_micro_batches
from silc.heads.tuning import learnt, take_over
from silc.training.protocols import Learner, ParamGroup

if TYPE_CHECKING:
    from silc.checkpoint import Checkpoint
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
        head: on top of its patches.
        preprocess: of the image tower.
        weights: of the loss.
    """

    def __init__(
        self, visual: ImageTower, text: TextTower, head: DetectionHead, preprocess: Preprocess, weights: LossConfig
    ) -> None:
        super().__init__()
        self.visual, self.text, self.head = visual, text, head
        self.preprocess, self.weights = preprocess, weights

    def look(self, images: Tensor, queries: Tensor) -> Found:
        """What is found in normalised images [B, 3, S, S] by queries [Q, D] or [B, Q, D]."""
        trunk = self.visual.trunk
        tokens = trunk.tokens(images).final
        patches = self.visual.without_prefix(tokens).unflatten(1, self.visual.grid(images))
        found: Found = self.head(patches, trunk.forward_head(tokens), queries)
        return found

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
        """The loss, times a share, of a batch (`BoxBatch`) or some rows of one."""
        rows, place = queries.clamp(min=0).unique(return_inverse=True)  # of the whole batch's texts
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
    """Which names count for each patch, bool [B, N, Q]: those that are known of the part in which its middle lies.

    Args:
        known: bool [B, P, Q], of parts.
        sides: int64 [B], n of a picture of n x n parts.
        grid: (h, w), N patches.
    """
    rows, columns = (
        ((torch.arange(length, device=sides.device) + 0.5) / length * sides[:, None]).long() for length in grid
    )
    parts = (rows[:, :, None] * sides[:, None, None] + columns[:, None]).flatten(1)
    return known.gather(1, parts[..., None].expand(-1, -1, known.shape[-1]))


@dataclass
class DetectLearner(Learner):
    """The `Learner` of a detector.

    Args:
        detector: towers and heads.
        text_lr: share of the learning rate for the text tower.
        micro_batch: images at a time; 0: all.
    """

    detector: Detector
    text_lr: float = 0.04
    micro_batch: int = 0

    @property
    def module(self) -> nn.Module:
        return self.detector

    def blocks(self) -> Iterable[nn.Module]:
        """Those of the towers."""
        return [*self.detector.visual.trunk.blocks, *self.detector.text.transformer.resblocks]

    def groups(self) -> Mapping[str, ParamGroup]:
        """The text tower at its share of the rate; vectors do not decay."""
        return {
            name: ParamGroup(self.text_lr if name.startswith("text.") else 1.0, p.ndim > 1)
            for name, p in self.detector.named_parameters()
            if p.requires_grad
        }

    def gradients(self, passes: Passes, batch: BoxBatch, hyper: object) -> Learnt:
        """In one pass, or in several with the gradient of the whole batch."""
        rows = (batch.pixels, batch.boxes, batch.labels, batch.queries, batch.known, batch.sides)
        return in_micro_batches(passes, rows, self.micro_batch, batch.texts)

    def state_dicts(self) -> Mapping[str, Mapping[str, Tensor]]:
        """What training changes; a tower at rest is the model below, by its name."""
        return {"model": learnt(self.detector)}

    def load(self, saved: Checkpoint) -> None:
        """Raises BadInput when it is of another architecture."""
        take_over(self.detector, saved)
