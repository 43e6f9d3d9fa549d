"""The image tower: a ViT whose patches can be read out in the text's space.

Module names are open_clip's (`trunk.*`, `head.proj.*`), so weights travel without a table.

Dense readouts, patch tokens -> joint space (T tokens, C width, D joint):

| readout                  | pools     | what it computes per patch                                                   |
| ------------------------ | --------- | ---------------------------------------------------------------------------- |
| `map_value`              | map       | MAP head run on that single token: z = o + MLP(LN(o)), o = O(W_v t + b_v)    |
| `value_block+map_value`  | map       | last block reduced to its value path (MaskCLIP), then `map_value`            |
| `value_block`            | cls, mean | last block reduced to its value path, final norm, projection                 |
| `tokens`                 | cls, mean | final-norm token, projection (for `mean` the pooled embedding is their mean) |

Anything else is refused: MAP tokens are not in the joint space before the attention pool.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import nn

from silc.models.vit import Trunk, resample_positions
from silc.types import BadInput

if TYPE_CHECKING:
    from torch import Tensor

    from silc.models.config import ImageTowerConfig

READOUTS = {
    "map": ("map_value", "value_block+map_value"),
    "cls": ("value_block", "tokens"),
    "mean": ("tokens", "value_block"),
}
POSITIONS = "visual.trunk.pos_embed"
"""Name of the position embedding in a two-tower model."""


def positions_at(positions: Tensor, image: ImageTowerConfig, size: int) -> Tensor:
    """A position embedding [1, prefix + T, C] for images of another size, by the tower's own rule for such images.

    The tower then computes at that size what it computed there before, and its embedding can learn at that size.
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
        self.head = nn.Sequential()  # SigLIP's MAP gives the joint embedding itself
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
        return self.trunk.forward_head(self.trunk.forward_features(images))

    def patches(self, images: Tensor) -> Tensor:
        """Patch tokens [B, h, w, C] after the final norm, of images [B, 3, H, W]: the tower's own features."""
        return self._grid(self.trunk.forward_features(images)[:, self.trunk.num_prefix_tokens :], images)

    def dense(self, images: Tensor, readout: str) -> Tensor:
        """Text-aligned patch features [B, h, w, D], not normalised, of images [B, 3, H, W].

        Raises:
            BadInput: the readout does not go with this pooling.
        """
        if readout not in READOUTS[self.pool]:
            raise BadInput(
                f"readout '{readout}' does not go with {self.pool} pooling; it has: {', '.join(READOUTS[self.pool])}"
            )
        if "value_block" in readout:
            tokens = self._tokens_by_value(images)
        else:
            tokens = self.trunk.forward_features(images)
        tokens = tokens[:, self.trunk.num_prefix_tokens :]  # [B, T, C]
        z = self.head(self._map_value(tokens) if self.pool == "map" else tokens)
        return self._grid(z, images)

    def _grid(self, tokens: Tensor, images: Tensor) -> Tensor:
        grid: Tensor = tokens.unflatten(1, (images.shape[-2] // self.patch, images.shape[-1] // self.patch))
        return grid

    def _map_value(self, tokens: Tensor) -> Tensor:
        """The MAP head of each token alone: attention over one token is its value."""
        pool: Any = self.trunk.attn_pool
        values = pool.kv(tokens).chunk(2, dim=-1)[1]
        out = pool.proj(values)
        return out + pool.mlp(pool.norm(out))  # type: ignore[no-any-return]

    def _tokens_by_value(self, images: Tensor) -> Tensor:
        """Final-norm tokens where the last block attends to nothing but itself (MaskCLIP, residual and MLP kept)."""
        trunk: Any = self.trunk
        *blocks, last = trunk.blocks
        x = trunk.norm_pre(trunk._pos_embed(trunk.patch_embed(images)))
        for block in blocks:
            x = block(x)
        values = last.attn.qkv(last.norm1(x)).chunk(3, dim=-1)[2]
        x = x + last.attn.proj(values)
        x = x + last.mlp(last.norm2(x))
        return trunk.norm(x)  # type: ignore[no-any-return]
