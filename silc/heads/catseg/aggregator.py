"""CAT-Seg's network: from costs between patches and classes to logits of each class.

Parameter names are the authors' (cvlab-kaist/CAT-Seg, MIT), so their weights load without a table. The results are
theirs too, with fewer operations: a term that all classes share is computed once per image, not once per class.

* A projection or convolution of [costs, guidance] is the sum of two. The one of the guidance is the same for all
  classes (or places).
* The transformer over classes pads with one learnt token, so all padding tokens are equal: linear attention adds the
  key and value of one of them, times their number.

B images, T classes, P prompts, D joint width, h x w patches, C channels of a cost, G channels of the guidance.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from silc.losses.guards import no_autocast
from silc.models.vit import MLP

if TYPE_CHECKING:
    from silc.heads.catseg.config import AggregatorConfig

LEFT_OUT = -100.0
"""Logit of a class that is not among the classes kept for an image."""
APART = -100.0
"""Added to the attention score of two patches of one shifted window that come from different sides of the map."""
AT_ONCE = 2**24
"""Maximum elements of the decoder's largest map that are computed at a time when no gradient is kept."""


class GuidedLinear(nn.Linear):
    """A linear layer on the concatenation [x, guidance]; the guidance is broadcast over x."""

    def forward(self, x: Tensor, guidance: Tensor) -> Tensor:  # type: ignore[override]
        """Output [..., out] for x [..., C] and guidance [..., G]; a guidance dimension of 1 is shared by all of x."""
        own, theirs = self.weight.split([x.shape[-1], guidance.shape[-1]], dim=1)
        return F.linear(x, own, self.bias) + F.linear(guidance, theirs)


class WindowAttention(nn.Module):
    """Attention among the patches of a window; queries and keys see the guidance too."""

    fused_attn = True
    """Whether torch's fused kernel is used (`processor.choose_attention`)."""

    def __init__(self, width: int, guidance: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q, self.k = GuidedLinear(width + guidance, width), GuidedLinear(width + guidance, width)
        self.v, self.proj = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, x: Tensor, guidance: Tensor, window: int, shift: int) -> Tensor:
        """Output [B, T, h, w, C] for x [B, T, h, w, C] and guidance [B, 1, h, w, G]."""
        num, _, high, wide, _ = x.shape
        q, k, v = (
            self._by_head(cut(one.roll((-shift, -shift), (2, 3)) if shift else one, window))
            for one in (self.q(x, guidance), self.k(x, guidance), self.v(x))
        )
        # Windows and heads share one dimension, which the mask has too; the mask is broadcast over images and classes.
        mask = apart(high, wide, window, shift, q).repeat_interleave(self.heads, dim=0)[None] if shift else None
        if self.fused_attn:
            found = F.scaled_dot_product_attention(q, k, v, mask)
        else:
            scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)
            found = (scores if mask is None else scores + mask).softmax(dim=-1) @ v
        out = found.unflatten(1, (-1, self.heads)).transpose(2, 3).flatten(3).unflatten(0, (num, -1))
        out = joined(out, high, wide, window)
        return self.proj(out.roll((shift, shift), (2, 3)) if shift else out)  # type: ignore[no-any-return]

    def _by_head(self, x: Tensor) -> Tensor:
        """Reshape [B, T, windows, L, C] to [B T, windows heads, L, c]."""
        return x.unflatten(-1, (self.heads, -1)).transpose(-3, -2).flatten(2, 3).flatten(0, 1)  # type: ignore[no-any-return]


def cut(x: Tensor, window: int) -> Tensor:
    """Windows [B, T, windows, L, C] of a map [B, T, h, w, C]."""
    x = x.unflatten(3, (-1, window)).unflatten(2, (-1, window))  # [B, T, rows, s, columns, s, C]
    return x.transpose(3, 4).flatten(4, 5).flatten(2, 3)


def joined(x: Tensor, height: int, width: int, window: int) -> Tensor:
    """The map [B, T, h, w, C] of windows [B, T, windows, L, C]."""
    x = x.unflatten(3, (window, window)).unflatten(2, (height // window, width // window))
    return x.transpose(3, 4).flatten(4, 5).flatten(2, 3)


def apart(height: int, width: int, window: int, shift: int, like: Tensor) -> Tensor:
    """Attention mask [windows, L, L]: APART where patches of a shifted window come from different sides of the map."""
    sides = [
        torch.cat([torch.full((n,), i) for i, n in enumerate((length - window, window - shift, shift))])
        for length in (height, width)
    ]
    regions = 3 * sides[0][:, None] + sides[1]
    places = cut(regions[None, None, :, :, None], window)[0, 0, ..., 0]  # [windows, L]
    different = places[:, :, None] != places[:, None, :]
    return torch.where(different, APART, 0.0).to(like)


def window_of(height: int, width: int, most: int) -> int:
    """Side of the windows of a grid: the largest number up to `most` that divides height and width.

    >>> window_of(24, 24, 12), window_of(28, 28, 12), window_of(8, 12, 12)
    (12, 7, 4)
    """
    both = math.gcd(height, width)
    return max(side for side in range(1, min(both, most) + 1) if both % side == 0)


class SwinBlock(nn.Module):
    """Attention within windows, shifted or not, and an MLP."""

    def __init__(self, width: int, guidance: int, heads: int, window: int, *, shifted: bool) -> None:
        super().__init__()
        self.window, self.shifted = window, shifted
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn, self.mlp = WindowAttention(width, guidance, heads), MLP(width, 4 * width, "gelu")

    def forward(self, x: Tensor, guidance: Tensor) -> Tensor:
        """Output [B, T, h, w, C]; windows as large as the map's shorter side are not shifted."""
        high, wide = x.shape[2:4]
        window = window_of(high, wide, self.window)
        shift = window // 2 if self.shifted and window < min(high, wide) else 0
        x = x + self.attn(self.norm1(x), guidance, window, shift)
        return x + self.mlp(self.norm2(x))  # type: ignore[no-any-return]


class SwinPair(nn.Module):
    """Two blocks of attention over places; the second has shifted windows."""

    def __init__(self, config: AggregatorConfig) -> None:
        super().__init__()
        parts = (config.width, config.guidance, config.heads, config.window)
        self.block_1, self.block_2 = SwinBlock(*parts, shifted=False), SwinBlock(*parts, shifted=True)
        self.guidance_norm = nn.LayerNorm(config.guidance)

    def forward(self, x: Tensor, guidance: Tensor) -> Tensor:
        """Output [B, T, h, w, C] for x [B, T, h, w, C] and guidance [B, 1, h, w, G]."""
        guidance = self.guidance_norm(guidance)
        return self.block_2(self.block_1(x, guidance), guidance)  # type: ignore[no-any-return]


class LinearAttention(nn.Module):
    """Linear attention over classes, with elu + 1 instead of softmax; queries and keys also see the texts' guidance."""

    def __init__(self, config: AggregatorConfig) -> None:
        super().__init__()
        width, both = config.width, config.width + config.guidance
        self.heads = config.heads
        self.q, self.k, self.v = GuidedLinear(both, width), GuidedLinear(both, width), nn.Linear(width, width)

    def forward(self, x: Tensor, guidance: Tensor, filler: tuple[Tensor, Tensor], fillers: int) -> Tensor:
        """Output [..., T, C] for x [..., T, C] and guidance [..., T, G].

        Args:
            filler: the learnt padding token [C] and its guidance [G]; it is attended to, but not returned.
            fillers: number of padding tokens.
        """
        q, (keys, values) = self._by_head(self.q(x, guidance), positive=True), self._keys_and_values(x, guidance)
        key, value = self._keys_and_values(filler[0][None], filler[1][None])
        with nullcontext() if torch.compiler.is_exporting() else no_autocast(x):  # autocast would cast down again
            both, total = keys.transpose(-2, -1) @ values, keys.sum(dim=-2)  # [..., heads, c, c], [..., heads, c]
            if torch.compiler.is_exporting() or fillers:  # in an exported graph the number of classes is a symbol
                both, total = both + fillers * (key.transpose(-2, -1) @ value), total + fillers * key[..., 0, :]
            found = (q @ both) / ((q @ total[..., None]) + 1e-6)
        return found.transpose(-3, -2).flatten(-2).to(x.dtype)

    def _keys_and_values(self, x: Tensor, guidance: Tensor) -> tuple[Tensor, Tensor]:
        return self._by_head(self.k(x, guidance), positive=True), self._by_head(self.v(x))

    def _by_head(self, x: Tensor, *, positive: bool = False) -> Tensor:
        """Reshape [..., T, C] to [..., heads, T, c], at least in float32, because sums over classes are long."""
        x = x.unflatten(-1, (self.heads, -1)).transpose(-3, -2)
        x = x if x.dtype == torch.float64 else x.float()
        return F.elu(x) + 1 if positive else x


class ClassTransformer(nn.Module):
    """Attention over the classes at each place, on pooled maps while training."""

    def __init__(self, config: AggregatorConfig) -> None:
        super().__init__()
        width = config.width
        self.pool, self.num_classes = config.pool, config.classes
        self.padding_tokens = nn.Parameter(torch.zeros(1, 1, width))
        self.padding_guidance = nn.Parameter(torch.zeros(1, 1, config.guidance))
        self.attention = LinearAttention(config)
        self.MLP = nn.Sequential(nn.Linear(width, 4 * width), nn.ReLU(), nn.Linear(4 * width, width))
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)

    def forward(self, x: Tensor, guidance: Tensor) -> Tensor:
        """Output [B, T, h, w, C] for x [B, T, h, w, C] and the texts' guidance [B, T, G]."""
        (num, _, high, wide, _), own = x.shape, x.flatten(0, 1).permute(0, 3, 1, 2)  # [B T, C, h, w]
        pool = min(self.pool, high, wide) if self.training else 1
        pooled = F.avg_pool2d(own, pool) if pool > 1 else own
        seen = pooled.unflatten(0, (num, -1)).permute(0, 3, 4, 1, 2)  # [B, h', w', T, C]
        filler = self.norm1(self.padding_tokens[0, 0]), self.padding_guidance[0, 0]
        fillers = self.num_classes - x.shape[1]  # never below 0: an image keeps at most num_classes
        seen = seen + self.attention(self.norm1(seen), guidance[:, None, None], filler, fillers)
        seen = seen + self.MLP(self.norm2(seen))
        if pool == 1:
            return x + seen.permute(0, 3, 1, 2, 4)  # type: ignore[no-any-return]
        back = seen.permute(0, 3, 4, 1, 2).flatten(0, 1)
        back = F.interpolate(back, (high, wide), mode="bilinear", align_corners=True)
        return x + back.permute(0, 2, 3, 1).unflatten(0, (num, -1))  # type: ignore[no-any-return]


class AggregatorLayer(nn.Module):
    """One layer: attention over places, then over classes."""

    def __init__(self, config: AggregatorConfig) -> None:
        super().__init__()
        self.swin_block, self.attention = SwinPair(config), ClassTransformer(config)

    def forward(self, x: Tensor, appearance: Tensor, texts: Tensor) -> Tensor:
        """Output [B, T, h, w, C]."""
        return self.attention(self.swin_block(x, appearance), texts)  # type: ignore[no-any-return]


class DoubleConv(nn.Module):
    """Twice a convolution, a norm and ReLU; the first convolution also sees the guidance."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.double_conv = nn.Sequential(
            nn.Conv2d(channels, out, 3, padding=1, bias=False),
            nn.GroupNorm(out // 16, out),
            nn.ReLU(),
            nn.Conv2d(out, out, 3, padding=1, bias=False),
            nn.GroupNorm(out // 16, out),
            nn.ReLU(),
        )

    def forward(self, x: Tensor, guidance: Tensor) -> Tensor:
        """Output [B T, out, h, w] for x [B T, C, h, w] and guidance [B, G, h, w]."""
        first: Any
        first, *rest = self.double_conv
        own, theirs = first.weight.split([x.shape[1], guidance.shape[1]], dim=1)
        shared = F.conv2d(guidance, theirs, padding=1)[:, None]
        x = (F.conv2d(x, own, padding=1).unflatten(0, (len(guidance), -1)) + shared).flatten(0, 1)
        for step in rest:
            x = step(x)
        return x


class Up(nn.Module):
    """Upsampling by 2, then two convolutions."""

    def __init__(self, channels: int, out: int, guidance: int) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(channels, channels - guidance, 2, 2)
        self.conv = DoubleConv(channels, out)

    def forward(self, x: Tensor, guidance: Tensor) -> Tensor:
        """Output [B T, out, 2 h, 2 w] for x [B T, C, h, w] and guidance [B, G, 2 h, 2 w]."""
        return self.conv(self.up(x), guidance)  # type: ignore[no-any-return]


class Aggregator(nn.Module):
    """The whole network, from costs to logits.

    Args:
        embed_dim: D.
        prompts: P.
    """

    def __init__(self, config: AggregatorConfig, embed_dim: int, prompts: int = 1) -> None:
        super().__init__()
        self.num_classes = config.classes
        self.layers = nn.ModuleList(AggregatorLayer(config) for _ in range(config.layers))
        self.conv1 = nn.Conv2d(prompts, config.width, 7, padding=3)
        self.guidance_projection = nn.Sequential(nn.Conv2d(embed_dim, config.guidance, 3, padding=1), nn.ReLU())
        self.text_guidance_projection = nn.Sequential(nn.Linear(embed_dim, config.guidance), nn.ReLU())
        self.decoder_guidance_projection = nn.ModuleList(
            nn.Sequential(nn.Conv2d(channels, out, 3, padding=1), nn.ReLU())
            for channels, out in zip(config.decoder_guidance, config.decoder_projected, strict=True)
        )
        first, second = config.decoder
        self.decoder1 = Up(config.width, first, config.decoder_projected[0])
        self.decoder2 = Up(first, second, config.decoder_projected[1])
        self.head = nn.Conv2d(second, 1, 3, padding=1)

    def forward(self, patches: Tensor, texts: Tensor, layers: Sequence[Tensor]) -> Tensor:
        """Logits [B, T, 4 h, 4 w].

        Args:
            patches: [B, D, h, w], in the space of the texts. They are also guidance, so their gradient has two paths.
            texts: [B, T, P, D].
            layers: intermediate layers of the image tower [B, ., 2 h, 2 w] and [B, ., 4 h, 4 w].
        """
        costs = torch.einsum("bdhw,btpd->btphw", F.normalize(patches, dim=1), F.normalize(texts, dim=-1))
        num_texts, kept = texts.shape[1], None
        if not torch.compiler.is_exporting() and num_texts > self.num_classes:
            kept = costs.flatten(2).amax(dim=-1).topk(self.num_classes, dim=-1, sorted=False).indices  # [B, kept]
            image = torch.arange(len(costs), device=costs.device)[:, None]
            costs, texts = costs[image, kept], texts[image, kept]
        x = self.conv1(costs.flatten(0, 1)).unflatten(0, costs.shape[:2]).permute(0, 1, 3, 4, 2)
        appearance = self.guidance_projection(patches).permute(0, 2, 3, 1)[:, None]
        texts = self.text_guidance_projection(F.normalize(texts.mean(dim=2), dim=-1))
        for layer in self.layers:
            x = layer(x, appearance, texts)
        guidance = [project(one) for project, one in zip(self.decoder_guidance_projection, layers, strict=True)]
        logits = self._decoded(x.permute(0, 1, 4, 2, 3), guidance)
        if kept is None:
            return logits
        every = logits.new_full((len(logits), num_texts, *logits.shape[2:]), LEFT_OUT)
        return every.scatter(1, kept[..., None, None].expand_as(logits), logits)

    def _decoded(self, x: Tensor, guidance: Sequence[Tensor]) -> Tensor:
        """Logits [B, T, 4 h, 4 w] of costs [B, T, C, h, w]. Classes are independent here, so they can be split."""
        if torch.is_grad_enabled() or torch.compiler.is_exporting():
            return self._up(x, guidance)
        num, _, _, high, wide = x.shape
        some = max(1, AT_ONCE // (num * 16 * high * wide * self.decoder2.up.out_channels))
        return torch.cat([self._up(part, guidance) for part in x.split(some, dim=1)], dim=1)

    def _up(self, x: Tensor, guidance: Sequence[Tensor]) -> Tensor:
        num, first, second = len(x), *guidance
        x = self.decoder2(self.decoder1(x.flatten(0, 1), first), second)
        return self.head(x)[:, 0].unflatten(0, (num, -1))  # type: ignore[no-any-return]
