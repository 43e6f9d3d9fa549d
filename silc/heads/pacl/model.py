"""PACL for the training engine, and as a model for evaluation and users."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from silc.heads.pacl.head import PaclHead, compatibility
from silc.heads.pairs import Objective, PairsLearner
from silc.heads.run import Learnt
from silc.losses.pairs import gathered, matching_loss
from silc.predict import TOWER, Model

if TYPE_CHECKING:
    from silc.batch import Batch
    from silc.distributed import World
    from silc.encoder import DualEncoder
    from silc.heads.pacl.config import PaclConfig
    from silc.training.protocols import Passes

IMAGES_AT_ONCE = 256
"""Images that go through the tower together."""


class Pacl(Objective):
    """The image-text loss of a head on a model."""

    def __init__(self, model: Model, config: PaclConfig, world: World) -> None:
        super().__init__()
        width, embed_dim = model.visual.trunk.pos_embed.shape[-1], model.encode_text("").shape[-1]
        self.head = PaclHead(width, embed_dim, config).to(model.device)
        self.config, self.world = config, world

    def forward(self, patches: Tensor, texts: Tensor) -> Learnt:
        """The loss of the tower's patches [B, P, C] and text features [B, D] of this rank."""
        embedded, all_texts = self.head.patches(patches), gathered(self.head.texts(texts), self.world)
        found = compatibility(embedded, all_texts, unit_pooled=self.config.unit_pooled)
        loss = matching_loss(found / self.config.temperature, self.world)
        return Learnt(loss, {"loss/image_text": loss.detach()})


@dataclass
class PaclLearner(PairsLearner):
    """The `Learner` of PACL's head."""

    def gradients(self, passes: Passes, batch: Batch, hyper: Any) -> Learnt:
        """Compute the gradients of one pass."""
        pixels, texts = self.seen(batch)
        # The tower needs no gradient, so it takes some images at a time: its activations are larger than all patches.
        patches = torch.cat([self.model.encode_dense(some, TOWER) for some in pixels.split(IMAGES_AT_ONCE)])
        out: Learnt = passes(patches.flatten(1, 2), texts)
        return out


@dataclass(repr=False)
class PaclModel(Model):
    """A model whose class maps are similarities of embedded patches and names: a `DensePredictor`."""

    head: PaclHead = field(kw_only=True)
    rules: ClassVar[Mapping[str, Any]] = {}
    makes_masks: ClassVar[bool] = False

    @property
    def record(self) -> Mapping[str, Any]:
        """Facts about the model for the records of its scores."""
        return {"decoder": "PACL", "readout": f"embedded patches, {'cosine' if self.head.unit else 'dot product'}"}

    def classes(self, names: Sequence[str], embed: Callable[[DualEncoder, Sequence[str]], Tensor]) -> Tensor:
        """Embedded text features [C, D]."""
        with torch.no_grad():
            found: Tensor = self.head.texts(embed(self, names).to(self.device))
        return found

    @torch.no_grad()
    def maps(self, images: Tensor, classes: Tensor) -> Tensor:
        """Similarities [B, C, h, w]."""
        embedded = self.head.patches(self.encode_dense(images, TOWER))
        return (embedded @ classes.T).permute(0, 3, 1, 2)
