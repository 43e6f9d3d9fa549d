"""The text tower: a pre-norm transformer on `scaled_dot_product_attention`.

Parameter names and shapes are open_clip's `TextTransformer` (`resblocks.N.attn.in_proj_weight`, ...), so its
checkpoints load without a table; the computation is checked against it in the tests.
Two common forms: bidirectional over all positions, padding included, with the last position pooled (SigLIP), and
causal with the end token pooled (CLIP).
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import nn

from silc.errors import BadInput
from silc.models.vit import ACTIVATIONS, AttentionPool, attend

if TYPE_CHECKING:
    from torch import Tensor

    from silc.models.config import TextTowerConfig


class Attention(nn.Module):
    """Multi-head self-attention [B, T, C] -> [B, T, C]."""

    fused_attn = True
    """Whether torch's fused kernel is used (attention.py)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)

    def forward(self, x: Tensor, *, causal: bool) -> Tensor:
        qkv = F.linear(x, self.in_proj_weight, self.in_proj_bias)  # [B, T, 3C]
        q, k, v = qkv.unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # 3 x [B, heads, T, C/heads]
        out = attend(q, k, v, fused=self.fused_attn, causal=causal)
        return self.out_proj(out.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]


class Block(nn.Module):
    """Attention and MLP, each with a norm before it and a residual connection."""

    def __init__(self, config: TextTowerConfig) -> None:
        super().__init__()
        width, mlp = config.width, config.mlp
        self.ln_1 = nn.LayerNorm(width, config.norm_eps)
        self.attn = Attention(width, config.heads)
        self.ln_2 = nn.LayerNorm(width, config.norm_eps)
        self.mlp = nn.Sequential(
            OrderedDict(
                c_fc=nn.Linear(width, mlp), gelu=ACTIVATIONS[config.activation](), c_proj=nn.Linear(mlp, width)
            ),
        )

    def forward(self, x: Tensor, *, causal: bool) -> Tensor:
        x = x + self.attn(self.ln_1(x), causal=causal)
        return x + self.mlp(self.ln_2(x))  # type: ignore[no-any-return]


class Transformer(nn.Module):
    """A stack of blocks."""

    def __init__(self, config: TextTowerConfig) -> None:
        super().__init__()
        self.resblocks = nn.ModuleList(Block(config) for _ in range(config.depth))

    def forward(self, x: Tensor, *, causal: bool) -> Tensor:
        for block in self.resblocks:
            x = block(x, causal=causal)
        return x


class TextTower(nn.Module):
    """Maps text ids into the joint space.

    Args:
        config: sizes and form.
        embed_dim: D, width of the joint space.
        vocab_size: entries of the tokenizer.
        eos_id: id of the end token, for a tower that pools this token.

    Raises:
        BadInput: the tokenizer has more entries than an imported token embedding has rows.
    """

    def __init__(self, config: TextTowerConfig, embed_dim: int, *, vocab_size: int, eos_id: int) -> None:
        super().__init__()
        if config.vocab_size and config.vocab_size < vocab_size:
            raise BadInput(
                f"the tokenizer has {vocab_size} entries, the text tower {config.vocab_size} (model.text.vocab_size); "
                "give the tokenizer the weights were trained with"
            )
        self.causal, self.pooling, self.eos_id = config.causal, config.pooling, eos_id
        self.token_embedding = nn.Embedding(config.vocab_size or vocab_size, config.width)
        self.positional_embedding = nn.Parameter(torch.empty(config.length, config.width))
        self.transformer = Transformer(config)
        self.ln_final = nn.LayerNorm(config.width, config.norm_eps)
        if config.pooling == "map":
            self.attn_pool = AttentionPool(config.width, config.heads, config.mlp, config.activation, config.norm_eps)
        self.text_projection: nn.Module = nn.Identity()
        if config.projection != "none":
            self.text_projection = nn.Linear(config.width, embed_dim, bias=config.projection == "linear+bias")
        self.init_weights(config)

    def init_weights(self, config: TextTowerConfig) -> None:
        """CLIP's initialisation: layers that end a residual branch are scaled down by depth."""
        nn.init.normal_(self.token_embedding.weight, std=0.02)
        nn.init.normal_(self.positional_embedding, std=0.01)
        into_residual = config.width**-0.5 * (2 * config.depth) ** -0.5
        block: Any
        for block in self.transformer.resblocks:
            nn.init.normal_(block.attn.in_proj_weight, std=config.width**-0.5)
            nn.init.normal_(block.attn.out_proj.weight, std=into_residual)
            nn.init.normal_(block.mlp.c_fc.weight, std=(2 * config.width) ** -0.5)
            nn.init.normal_(block.mlp.c_proj.weight, std=into_residual)
            for layer in (block.attn.out_proj, block.mlp.c_fc, block.mlp.c_proj):
                nn.init.zeros_(layer.bias)
        if isinstance(self.text_projection, nn.Linear):
            nn.init.normal_(self.text_projection.weight, std=config.width**-0.5)
            if self.text_projection.bias is not None:
                nn.init.zeros_(self.text_projection.bias)

    def forward(self, ids: Tensor) -> Tensor:
        """Joint text embedding [B, D], not normalised, of ids [B, T]; T may be at most `length`."""
        x = self.token_embedding(ids) + self.positional_embedding[: ids.shape[1]]
        x = self.ln_final(self.transformer(x, causal=self.causal))  # [B, T, C]
        return self.text_projection(self._pool(x, ids))  # type: ignore[no-any-return]

    def _pool(self, x: Tensor, ids: Tensor) -> Tensor:
        """Pool the tokens [B, T, C] to one vector each, [B, C]."""
        match self.pooling:
            case "last":
                return x[:, -1]
            case "first":
                return x[:, 0]
            case "mean":
                return x.mean(dim=1)
            case "max":
                return x.amax(dim=1)
            case "map":
                return self.attn_pool(x)  # type: ignore[no-any-return]
            case "eos":
                end = (ids == self.eos_id).int().argmax(dim=1)  # the first
            case _:
                end = ids.argmax(dim=1)
        return x[torch.arange(x.shape[0], device=x.device), end]
