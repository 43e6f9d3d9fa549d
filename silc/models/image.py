"""The image tower: a ViT whose patch features can be read out in the joint space with the text.

Module names are open_clip's (`trunk.*`, `head.proj.*`), so weights load without a table of names.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

from silc.models.readouts import READOUTS, chosen, map_value
from silc.models.vit import Trunk, resample_positions

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from silc.models.config import ImageTowerConfig
    from silc.models.vit import Block

POSITIONS = "visual.trunk.pos_embed"
"""Name of the position embedding in a two-tower model."""


def positions_at(positions: Tensor, image: ImageTowerConfig, size: int) -> Tensor:
    """Resample a position embedding [1, prefix + T, C] for images of another size, by the tower's own rule.

    The tower's results at that size do not change, and the embedding can be trained at that size.
    """
    old, new = image.size // image.patch, size // image.patch
    prefix = int(image.pool == "cls")
    return resample_positions(
        positions, (old, old), (new, new), prefix=prefix, rule=image.position_resample
    ).contiguous()


class ImageTower(nn.Module):
    """ViT with MAP, CLS or mean pooling into the joint space.

    Args:
        config: sizes and pooling.
        embed_dim: D, width of the joint space.
    """

    def __init__(self, config: ImageTowerConfig, embed_dim: int) -> None:
        super().__init__()
        self.pool = config.pool
        self.patch = config.patch
        self.trunk = Trunk(config)
        self.head = nn.Sequential()  # SigLIP's MAP directly gives the joint embedding
        if config.projects:
            proj = nn.Linear(config.width, embed_dim, bias=config.projection == "linear+bias")
            nn.init.normal_(proj.weight, std=config.width**-0.5)
            self.head.add_module("proj", proj)

    def forward(self, images: Tensor) -> Tensor:
        """Joint image embedding [B, D], not normalised, of images [B, 3, H, W]."""
        embedding: Tensor = self.head(self.pooled(images))
        return embedding

    def pooled(self, images: Tensor) -> Tensor:
        """Pooled features [B, C] before the projection, of images [B, 3, H, W]."""
        return self.trunk.forward_head(self.trunk.tokens(images).final)

    def patches(self, images: Tensor) -> Tensor:
        """Patch tokens [B, h, w, C] after the final norm, of images [B, 3, H, W]: the tower's own features."""
        return self.without_prefix(self.trunk.tokens(images).final).unflatten(1, self.grid(images))  # type: ignore[no-any-return]

    def dense(self, images: Tensor, readout: str) -> Tensor:
        """Text-aligned patch features [B, h, w, D], not normalised, of images [B, 3, H, W].

        Raises:
            BadInput: the readout does not go with this pooling.
        """
        known = READOUTS[self.pool]
        return self.aligned(images, known[chosen(readout, known, f"{self.pool} pooling")])

    def aligned(self, images: Tensor, last_block: Callable[[Block, Tensor], Tensor] | None = None) -> Tensor:
        """Like `dense`, with any function instead of the last block."""
        tokens = self.trunk.tokens(images, last_block=last_block).final
        return self.in_joint_space(self.without_prefix(tokens), self.grid(images))

    def in_joint_space(self, patches: Tensor, grid: tuple[int, int]) -> Tensor:
        """Patch features [B, h, w, D] of normed tokens [B, h w, C]: `map_value` for MAP pooling, then projection."""
        features: Tensor = self.head(map_value(self.trunk, patches) if self.pool == "map" else patches)
        return features.unflatten(1, grid)  # type: ignore[no-any-return]

    def grid(self, images: Tensor) -> tuple[int, int]:
        """Numbers of patch rows and columns of images [B, 3, H, W]."""
        return images.shape[-2] // self.patch, images.shape[-1] // self.patch

    def without_prefix(self, tokens: Tensor) -> Tensor:
        """The patch tokens [B, T, C] among all tokens [B, prefix + T, C]."""
        return tokens[:, self.trunk.num_prefix_tokens :]
