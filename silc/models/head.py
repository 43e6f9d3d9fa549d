"""The distillation head: joint image embedding -> prototype logits (DINO's head, SILC's sizes); and the patch head for
masked-patch prediction (iBOT): the student sees a view with masked patches and predicts the teacher's patches.

The loss computes the last product, because it never needs all logits at once. The mask token belongs to the patch head
and not to the tower, so a tower trained with it is like any other tower.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import nn

from silc.step import FactoredLogits

if TYPE_CHECKING:
    from torch import Tensor

    from silc.models.config import HeadConfig
    from silc.models.image import ImageTower


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
        # Only the direction of a prototype counts; the normal distribution is uniform over directions.
        nn.init.normal_(self.prototypes, std=self.prototypes.shape[1] ** -0.5)

    def forward(self, x: Tensor) -> FactoredLogits:
        """Unit-length bottleneck [..., C] of joint image embeddings [..., D], and the prototypes [K, C]."""
        return FactoredLogits(F.normalize(self.mlp(x).float(), dim=-1), self.prototypes)


class PatchHead(nn.Module):
    """The mask token, and a separate head on the image tower's tokens after the final norm (before the pooling).

    Args:
        config: hidden width, bottleneck, K; those of the distillation head.
        width: C, width of the image tower.
    """

    def __init__(self, config: HeadConfig, width: int) -> None:
        super().__init__()
        self.mask_token = nn.Parameter(torch.empty(width))
        self.head = DistillHead(config, width)
        nn.init.normal_(self.mask_token, std=0.02)

    def masked_tokens(self, tower: ImageTower, images: Tensor, masked: Tensor) -> Tensor:
        """Patch tokens [N, T, C] of images [N, 3, H, W]; the mask token replaces patches `masked` (int64 [N, M])."""

        def mask(patches: Tensor) -> Tensor:
            n, h, w, _ = patches.shape
            where = torch.zeros(n, h * w, dtype=torch.bool, device=patches.device).scatter(1, masked, True)
            return torch.where(where.view(n, h, w, 1), self.mask_token.to(patches.dtype), patches)

        return tower.without_prefix(tower.trunk.tokens(images, mask=mask).final)


def embedding_and_patches(tower: ImageTower, images: Tensor) -> tuple[Tensor, Tensor]:
    """Joint embedding [N, D] and patch tokens [N, T, C] of images [N, 3, H, W] in one pass."""
    tokens = tower.trunk.tokens(images).final
    return tower.head(tower.trunk.forward_head(tokens)), tower.without_prefix(tokens)


def draw_masks(shape: tuple[int, ...], num_patches: int, mask_ratio: float, device: torch.device) -> Tensor:
    """Random patches to mask: int64 [*shape, M] places out of `num_patches`. M is equal for all images, at least 1."""
    num_masked = max(1, round(mask_ratio * num_patches))
    return torch.rand(*shape, num_patches, device=device).argsort(dim=-1)[..., :num_masked]


def gather_tokens(tokens: Tensor, places: Tensor) -> Tensor:
    """Tokens [N, M, C] at places [N, M] of tokens [N, T, C]."""
    return tokens.gather(1, places[..., None].expand(-1, -1, tokens.shape[-1]))
