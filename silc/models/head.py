"""The distillation head: joint image embedding -> prototype logits (DINO's head, SILC's sizes).

The last product is left to the loss, which needs no logits as a whole.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import nn

from silc.step import Projection

if TYPE_CHECKING:
    from torch import Tensor

    from silc.models.config import HeadConfig


class DistillHead(nn.Module):
    """p = normalize(MLP(x)) . normalize(W): two hidden layers, an l2-normalised bottleneck, K unit prototypes.

    The last layer is weight-normed with its gain fixed at 1 and has no bias, so each logit is a cosine.

    Args:
        config: hidden width, bottleneck width, K.
        in_dim: width of the (un-normalised) joint image embedding.
    """

    def __init__(self, config: HeadConfig, in_dim: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(in_dim, config.hidden),
            nn.GELU(),
            nn.Linear(config.hidden, config.hidden),
            nn.GELU(),
            nn.Linear(config.hidden, config.bottleneck),
        )
        self.prototypes = nn.Parameter(torch.empty(config.prototypes, config.bottleneck))
        self.init_weights()

    def init_weights(self) -> None:
        """Truncated normal of std 0.02, as DINO's."""
        for layer in self.mlp:
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02)
                nn.init.zeros_(layer.bias)
        # Only the direction of a prototype counts; a normal draw is uniform over directions.
        nn.init.normal_(self.prototypes, std=self.prototypes.shape[1] ** -0.5)

    def forward(self, x: Tensor) -> Projection:
        """Bottleneck [..., C], of unit length, of joint image embeddings [..., D], and the prototypes [K, C]."""
        return Projection(F.normalize(self.mlp(x).float(), dim=-1), self.prototypes)
