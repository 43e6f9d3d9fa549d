"""TCL for the training engine, and as a model for evaluation and users."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from silc.heads.pairs import PairsLearner
from silc.heads.tcl.head import TclHead
from silc.predict import Model
from silc.training.schedules import LearningRate

if TYPE_CHECKING:
    from silc.batch import Batch
    from silc.encoder import DualEncoder
    from silc.heads.run import Learnt
    from silc.training.protocols import Passes


class TclRate(NamedTuple):
    """Values of the schedule for one step."""

    lr: float
    alone: bool
    """Whether the copy of the last block is frozen."""

    def logged(self) -> dict[str, float]:
        """Values for metrics.jsonl."""
        return {"lr": self.lr, "alone": float(self.alone)}


@dataclass(frozen=True)
class TclSchedule(LearningRate):
    """The learning rate, and the two phases."""

    alone: int
    """Steps of the first phase."""

    def at(self, step: int) -> TclRate:
        """Values for one step, 0 <= step < total."""
        return TclRate(self.lr(step), step < self.alone)


@dataclass
class TclLearner(PairsLearner):
    """The `Learner` of TCL's head."""

    def gradients(self, passes: Passes, batch: Batch, hyper: TclRate) -> Learnt:
        """Compute the gradients of one pass; drop those of the last block's copy while the rest learns alone."""
        pixels, texts = self.seen(batch)
        num, (height, width), world = len(pixels), self.model.visual.grid(pixels), self.module.world
        # Drawn for the global batch on every rank, so that an image's noise does not depend on the ranks.
        uniform = torch.rand(num * world.size, 4 * height, 4 * width, device=pixels.device)
        out: Learnt = passes(pixels, texts, uniform[world.rank * num : (world.rank + 1) * num])
        if hyper.alone:
            for parameter in self.module.head.block.parameters():
                parameter.grad = None
        return out


@dataclass(repr=False)
class TclModel(Model):
    """A model whose class maps are TCL's masks: a `DensePredictor`."""

    head: TclHead = field(kw_only=True)
    rules: ClassVar[Mapping[str, Any]] = {}
    record: ClassVar[Mapping[str, Any]] = {"decoder": "TCL", "readout": "masks on a grid of 4 x 4 to a patch"}
    makes_masks: ClassVar[bool] = True

    def classes(self, names: Sequence[str], embed: Callable[[DualEncoder, Sequence[str]], Tensor]) -> Tensor:
        """Unit-length text features [C, D]."""
        return embed(self, names).to(self.device)

    @torch.no_grad()
    def maps(self, images: Tensor, classes: Tensor) -> Tensor:
        """Masks [B, C, 4h, 4w], from 0 to 1."""
        with self._computing():
            features = self.head.features(self.visual, images)
        return self.head.mask_logits(features, classes).sigmoid()
