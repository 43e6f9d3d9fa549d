"""TCL's losses of a batch: the masked image should match its text, and the mask should cover no more than is needed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from silc.heads.pairs import Objective
from silc.heads.run import Learnt
from silc.heads.tcl.head import TclHead
from silc.heads.tcl.terms import area_loss, enlarged, hard_mask, pooled_within, roughness
from silc.losses.contrastive import softmax_loss
from silc.losses.guards import no_autocast
from silc.losses.pairs import matching_loss

if TYPE_CHECKING:
    from silc.distributed import World
    from silc.heads.tcl.config import TclConfig
    from silc.predict import Model

SCALE_MAX = 100.0
"""Above this the scale of an image-text loss has no gradient."""


class Tcl(Objective):
    """The losses of a head on a model's tower."""

    def __init__(self, model: Model, config: TclConfig, world: World) -> None:
        super().__init__()
        begin = {"mask_scale": config.mask_scale, "mask_bias": config.mask_bias, "temperature": config.temperature}
        self.head = TclHead(model.visual, **begin).to(model.device)
        self.model, self.config, self.world = model, config, world

    def forward(self, images: Tensor, texts: Tensor, uniform: Tensor) -> Learnt:
        """Losses, each weighted, and their sum.

        Args:
            images: normalised pixels [B, 3, H, W] of this rank.
            texts: unit-length features [B, D].
            uniform: numbers in [0, 1), [B, 4h, 4w], from which the masks' noise is made.
        """
        config, world, tower = self.config, self.world, self.model.visual
        features, all_texts = self.head.features(tower, images), world.gather(texts)
        logits = self.head.mask_logits(features, all_texts)  # [B, N, 4h, 4w]
        own = torch.eye(len(images), len(all_texts), dtype=torch.bool, device=images.device)
        own = own.roll(world.rank * len(images), dims=1)
        masks = logits.sigmoid()
        of_own, of_others = masks[own][:, None], masks[~own]
        kept = hard_mask(logits[own], uniform, config.gumbel_temperature)[:, None]
        seen = F.normalize(tower(images * enlarged(kept, *images.shape[-2:])).float(), dim=-1)
        with no_autocast(images):
            pooled = F.normalize(pooled_within(features, masks), dim=-1)
            scores = torch.einsum("bnd,nd->bn", pooled, all_texts) * scale_of(self.head.feature_scale)
        losses = {
            "image": config.contrast * softmax_loss(seen, texts, scale_of(self.head.image_scale), world),
            "feature": config.contrast * matching_loss(scores, world),
            "area": config.area * area_loss(of_own, config.prior, world),
            "other_area": config.area * area_loss(of_others, 0.0, world),
            "feature_smooth": config.smooth * roughness(features),
            "mask_smooth": config.smooth * roughness(masks),
        }
        metrics = {f"loss/{name}": value.detach() for name, value in losses.items()}
        return Learnt(torch.stack(list(losses.values())).sum(), metrics)


def scale_of(logarithm: Tensor) -> Tensor:
    """The scale of an image-text loss, from its logarithm."""
    return logarithm.exp().clamp(max=SCALE_MAX)
