"""The parts of a ViT, and the ViT, with timm's names, results and initial values.

It is written here because importing timm takes longer than importing torch (it imports all its models, torchvision and
torch's compiler). `tests/models/test_vit.py` checks that outputs, gradients and initial values are timm's, bit by bit.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from silc.errors import BadInput

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from silc.models.config import Activation, ImageTowerConfig

RESAMPLE: dict[str, dict[str, Any]] = {
    "bicubic_antialias": {"mode": "bicubic", "antialias": True},
    "bicubic": {"mode": "bicubic", "antialias": False},
    "bilinear_antialias": {"mode": "bilinear", "antialias": True},
    # As in big_vision: scipy.ndimage.zoom of order 1 aligns the corners.
    "bilinear_corners": {"mode": "bilinear", "antialias": False, "align_corners": True},
}


def resample_positions(
    positions: Tensor, old: tuple[int, int], new: tuple[int, int], *, prefix: int, rule: str
) -> Tensor:
    """Resample a position embedding [1, prefix + h w, C] from grid `old` = (h, w) to `new`, by a rule of `RESAMPLE`."""
    # In a graph that is exported the grid is a symbol, which cannot be compared with the old one.
    if not torch.compiler.is_exporting() and old == new:
        return positions
    kept, grid = positions[:, :prefix], positions[:, prefix:]
    dtype, width = grid.dtype, grid.shape[-1]
    grid = grid.float().reshape(1, *old, width).permute(0, 3, 1, 2)
    grid = F.interpolate(grid, size=new, **RESAMPLE[rule]).permute(0, 2, 3, 1).reshape(1, -1, width).to(dtype)
    return torch.cat([kept, grid], dim=1) if prefix else grid


class QuickGELU(nn.Module):
    """x sigmoid(1.702 x), which approximates GELU."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(1.702 * x)


ACTIVATIONS: dict[Activation, Callable[[], nn.Module]] = {
    "gelu": nn.GELU,
    "gelu_tanh": partial(nn.GELU, approximate="tanh"),
    "quick_gelu": QuickGELU,
}


class MLP(nn.Module):
    """Two linear layers [..., C] -> [..., C] with an activation between them."""

    def __init__(self, width: int, hidden: int, activation: Activation) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.act = ACTIVATIONS[activation]()
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc2(self.act(self.fc1(x)))
        return out


def attend(q: Tensor, k: Tensor, v: Tensor, *, fused: bool, causal: bool = False) -> Tensor:
    """softmax(q k^T / sqrt(c)) v of [B, heads, T, c], by torch's fused kernel or as two products and a softmax."""
    if fused:
        return F.scaled_dot_product_attention(q, k, v, is_causal=causal)
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)  # [B, heads, T, T]
    if causal:
        scores = scores + torch.full_like(scores[0, 0], -torch.inf).triu(1)
    out: Tensor = scores.softmax(dim=-1) @ v
    return out


class Attention(nn.Module):
    """Multi-head self-attention [B, T, C] -> [B, T, C]."""

    fused_attn = True
    """Whether torch's fused kernel is used (attention.py)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def split(self, x: Tensor) -> Tensor:
        """Queries, keys and values by head, [3, B, heads, T, C / heads], of x [B, T, C]."""
        return self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # type: ignore[no-any-return]

    def merge(self, x: Tensor) -> Tensor:
        """The output [B, T, C] from the results of the heads, [B, heads, T, C / heads]."""
        return self.proj(x.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.split(x)
        return self.merge(attend(q, k, v, fused=self.fused_attn))


class Block(nn.Module):
    """Attention and MLP, each with a norm before it and a residual connection."""

    def __init__(self, width: int, heads: int, hidden: int, activation: Activation, norm_eps: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, norm_eps)
        self.attn = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width, norm_eps)
        self.mlp = MLP(width, hidden, activation)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))  # type: ignore[no-any-return]


class AttentionPool(nn.Module):
    """Attention pooling with one latent query (MAP, SigLIP): [B, T, C] -> [B, C]."""

    fused_attn = True
    """Whether torch's fused kernel is used (attention.py)."""

    def __init__(self, width: int, heads: int, hidden: int, activation: Activation, norm_eps: float) -> None:
        super().__init__()
        self.heads = heads
        self.latent = nn.Parameter(torch.zeros(1, 1, width))
        self.q = nn.Linear(width, width)
        self.kv = nn.Linear(width, 2 * width)
        self.proj = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width, norm_eps)
        self.mlp = MLP(width, hidden, activation)
        self.init_latent()

    def init_latent(self) -> None:
        """Draw initial values of the latent."""
        with torch.no_grad():
            draw_truncated_(self.latent, std=1.0).mul_(self.latent.shape[-1] ** -0.5)

    def forward(self, x: Tensor) -> Tensor:
        b, t, c = x.shape
        q = self.q(self.latent.expand(b, -1, -1)).reshape(b, 1, self.heads, c // self.heads).transpose(1, 2)
        k, v = self.kv(x).reshape(b, t, 2, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        out = self.proj(attend(q, k, v, fused=self.fused_attn).transpose(1, 2).reshape(b, 1, c))
        return (out + self.mlp(self.norm(out)))[:, 0]  # type: ignore[no-any-return]


class PatchEmbed(nn.Module):
    """Images [B, 3, H, W] to patches [B, h, w, C]; H and W must be multiples of the patch size."""

    def __init__(self, config: ImageTowerConfig) -> None:
        super().__init__()
        self.patch = config.patch
        self.grid_size = (config.size // config.patch, config.size // config.patch)
        self.proj = nn.Conv2d(3, config.width, config.patch, config.patch, bias=not config.pre_norm)

    def forward(self, images: Tensor) -> Tensor:
        for side in images.shape[-2:]:
            torch._assert(side % self.patch == 0, f"a side of {side} px is no multiple of the patch's {self.patch}")
        out: Tensor = self.proj(images).permute(0, 2, 3, 1)
        return out


class Tokens(NamedTuple):
    """Output tokens of a ViT: the class token, if there is one, then the patches row by row."""

    final: Tensor  # [B, prefix + T, C] after the final norm
    layers: list[Tensor]  # [B, prefix + T, C] each: outputs of the blocks asked for, without a norm


class Trunk(nn.Module):
    """A ViT for images of any size; its position embedding is resampled as in the source of the weights."""

    def __init__(self, config: ImageTowerConfig) -> None:
        super().__init__()
        width = config.width
        parts = (width, config.heads, config.mlp, config.activation, config.norm_eps)
        self.resample, self.pool = config.position_resample, config.pool
        self.num_prefix_tokens = int(config.pool == "cls")
        # In timm's order, so that a seed gives the same weights.
        patch_embed = PatchEmbed(config)
        tokens = self.num_prefix_tokens + patch_embed.grid_size[0] * patch_embed.grid_size[1]
        self.cls_token = nn.Parameter(torch.empty(1, 1, width)) if config.pool == "cls" else None
        self.pos_embed = nn.Parameter(torch.empty(1, tokens, width))
        self.patch_embed = patch_embed
        self.norm_pre = nn.LayerNorm(width, config.norm_eps) if config.pre_norm else nn.Identity()
        self.blocks = nn.Sequential(*(Block(*parts) for _ in range(config.depth)))
        # Before pooling, so that the mean of the dense tokens is the pooled embedding.
        self.norm = nn.LayerNorm(width, config.norm_eps)
        self.attn_pool = AttentionPool(*parts) if config.pool == "map" else None
        draw_truncated_(self.pos_embed, std=0.02)
        if self.cls_token is not None:
            nn.init.normal_(self.cls_token, std=1e-6)
        self.apply(_draw)

    def _pos_embed(self, x: Tensor) -> Tensor:
        """Tokens [B, prefix + T, C] with positions added, from patches [B, h, w, C]."""
        positions = resample_positions(
            self.pos_embed,
            self.patch_embed.grid_size,
            (x.shape[1], x.shape[2]),
            prefix=self.num_prefix_tokens,
            rule=self.resample,
        )
        x = x.flatten(1, 2)
        if self.cls_token is not None:
            x = torch.cat([self.cls_token.expand(x.shape[0], -1, -1), x], dim=1)
        return x + positions

    def tokens(
        self,
        images: Tensor,
        *,
        layers: Sequence[int] = (),
        mask: Callable[[Tensor], Tensor] | None = None,
        last_block: Callable[[Block, Tensor], Tensor] | None = None,
    ) -> Tokens:
        """Tokens of images [B, 3, H, W]. All passes through the blocks go this way.

        Args:
            layers: blocks whose tokens are also returned, counted from 0, or backwards from -1.
            mask: replaces some of the patches [B, h, w, C], before their positions are added.
            last_block: replaces the last block: computes tokens [B, prefix + T, C] from that block and its input.

        Raises:
            BadInput: there is no such layer.
        """
        num = len(self.blocks)
        if wrong := [layer for layer in layers if not -num <= layer < num]:
            raise BadInput(f"the image tower has no layer {wrong[0]}; it has 0 to {num - 1}, or -{num} to -1")
        patches = self.patch_embed(images)
        x = self.norm_pre(self._pos_embed(patches if mask is None else mask(patches)))
        steps: list[Any] = list(self.blocks)
        if last_block is not None:
            steps[-1] = partial(last_block, steps[-1])
        kept = {}
        for number, step in enumerate(steps):
            x = step(x)
            if number in layers or number - num in layers:
                kept[number] = x
        return Tokens(self.norm(x), [kept[layer % num] for layer in layers])

    def forward_head(self, tokens: Tensor) -> Tensor:
        """Pooled features [B, C] of the tokens."""
        if self.attn_pool is not None:
            return self.attn_pool(tokens)  # type: ignore[no-any-return]
        return tokens[:, 0] if self.pool == "cls" else tokens.mean(dim=1)


@torch.no_grad()
def draw_truncated_(x: Tensor, *, std: float) -> Tensor:
    """Fill with a normal distribution cut off at -2 and 2 (not 2 std), as in timm: one uniform number per value.

    torch's own function draws values outside the limits again, so the same seed gives other weights.
    """
    if x.is_meta:  # nothing to fill, and torch is slow in Python here
        return x
    share = math.erf(2 / std / math.sqrt(2))  # fraction of the distribution within the limits
    return x.uniform_(-share, share).erfinv_().mul_(std * math.sqrt(2)).clamp_(-2, 2)


def _draw(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        draw_truncated_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)
    elif isinstance(module, AttentionPool):
        module.init_latent()
