"""The text decoder: pre-norm blocks of causal self-attention, cross-attention to an image's tokens, and an MLP.

As in big_vision's CapPa decoder: attention without bias, learnt positions, and a separate output layer, zero at first.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LEAST = 1e-3
"""Variance of a direction, as a share of the mean, below which `Whitened` scales it no further."""


class Shape(NamedTuple):
    """Shape of a decoder."""

    depth: int
    width: int
    heads: int
    mlp: int
    vocab_size: int
    length: int
    source: int
    """Width of the image's tokens."""
    dropout: float = 0.0
    whitened: bool = False
    """Whether the image's tokens pass through `Whitened` first."""


class Seen(NamedTuple):
    """Keys and values [B, H, N, W/H] of an attention."""

    keys: Tensor
    values: Tensor


class Cache(NamedTuple):
    """Keys and values of B texts and their images, one `Seen` for each block of the decoder."""

    read: list[Seen]  # N is the decoder's length
    image: list[Seen]  # N is the number of the image's tokens

    def of_rows(self, rows: Tensor) -> Cache:
        """The cache of some rows int64 [R], in this order."""
        return Cache(*([Seen(k[rows], v[rows]) for k, v in part] for part in self))

    def moved(self, rows: Tensor) -> Cache:
        """The cache with texts from rows int64 [B]; each row must have the same image as the row it replaces."""
        return Cache([Seen(k[rows], v[rows]) for k, v in self.read], self.image)


class Attention(nn.Module):
    """Attention of queries of `width` to keys and values of `source`, without bias."""

    def __init__(self, width: int, heads: int, source: int) -> None:
        super().__init__()
        self.heads = heads
        self.q, self.k, self.v, self.out = (
            nn.Linear(into, width, bias=False) for into in (width, source, source, width)
        )

    def seen(self, x: Tensor) -> Seen:
        """Keys and values of tokens [B, N, source]."""
        return Seen(self._split(self.k(x)), self._split(self.v(x)))

    def forward(self, x: Tensor, seen: Seen, *, mask: Tensor | None = None, causal: bool = False) -> Tensor:
        """Output [B, L, W] for tokens [B, L, W]; `mask` bool [B, 1, L, N] is True where a token may attend."""
        found = F.scaled_dot_product_attention(
            self._split(self.q(x)), seen.keys, seen.values, attn_mask=mask, is_causal=causal
        )
        out: Tensor = self.out(found.transpose(1, 2).flatten(2))
        return out

    def _split(self, x: Tensor) -> Tensor:
        heads: Tensor = x.unflatten(-1, (self.heads, -1))
        return heads.transpose(1, 2)


class Block(nn.Module):
    """One block; in training there is dropout on what each of its three parts adds."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        width = shape.width
        self.norm1, self.attn = nn.LayerNorm(width), Attention(width, shape.heads, width)
        self.norm2, self.cross = nn.LayerNorm(width), Attention(width, shape.heads, shape.source)
        self.norm3 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, shape.mlp), nn.GELU(approximate="tanh"), nn.Linear(shape.mlp, width))
        self.drop = nn.Dropout(shape.dropout)

    def forward(self, x: Tensor, memory: Tensor) -> Tensor:
        """Output [B, L, W] for all tokens [B, L, W] of a text (causal attention) and an image's tokens [B, T, C]."""
        h = self.norm1(x)
        x = x + self.drop(self.attn(h, self.attn.seen(h), causal=True))
        return self._looked(x, self.cross.seen(memory))

    def read(self, x: Tensor, places: Tensor, before: Seen, image: Seen) -> tuple[Tensor, Seen]:
        """Like `forward`, for tokens [B, n, W] at places int64 [B, n].

        Also returns `before` with the keys and values of these tokens.
        """
        h = self.norm1(x)
        new = self.attn.seen(h)
        at = places[:, None, :, None].expand_as(new.keys)
        seen = Seen(*(old.scatter(2, at, own) for old, own in zip(before, new, strict=True)))
        mask = torch.arange(seen.keys.shape[2], device=x.device) <= places[:, None, :, None]
        return self._looked(x + self.attn(h, seen, mask=mask), image), seen

    def _looked(self, x: Tensor, image: Seen) -> Tensor:
        x = x + self.drop(self.cross(self.norm2(x), image))
        out: Tensor = x + self.drop(self.mlp(self.norm3(x)))
        return out


class Whitened(nn.Linear):
    """A linear layer of an image's tokens that begins as ZCA whitening (Kessy, Lewin & Strimmer, arXiv 1512.00809):
    features of mean 0 and variance 1 that do not correlate. In a tower's tokens a few directions hold almost all
    variance, and a decoder learns the others late.
    """

    def __init__(self, width: int) -> None:
        super().__init__(width, width)

    @torch.no_grad()
    def set_from(self, tokens: Tensor) -> None:
        """Set weight and bias from tokens [N, C]."""
        tokens = tokens.double()
        mean = tokens.mean(dim=0)
        variances, directions = torch.linalg.eigh((tokens - mean).T @ (tokens - mean) / len(tokens))
        # directions of hardly any variance are noise and are not scaled up to 1
        scales = variances.clamp(min=max(LEAST * float(variances.mean()), 1e-12)).rsqrt()
        whiten = directions * scales @ directions.T  # symmetric, so that the signs of directions do not matter
        self.weight.copy_(whiten)
        self.bias.copy_(-whiten @ mean)


class TextDecoder(nn.Module):
    """Gives logits of the next token, from the tokens so far and the tokens of an image."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.tokens = nn.Embedding(shape.vocab_size, shape.width)
        self.positions = nn.Parameter(torch.empty(shape.length, shape.width))
        self.facing: Any = Whitened(shape.source) if shape.whitened else nn.Identity()
        self.blocks: Any = nn.ModuleList(Block(shape) for _ in range(shape.depth))
        self.norm = nn.LayerNorm(shape.width)
        self.out = nn.Linear(shape.width, shape.vocab_size, bias=False)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        nn.init.normal_(self.tokens.weight, std=shape.width**-0.5)
        nn.init.normal_(self.positions, std=shape.width**-0.5)
        nn.init.zeros_(self.out.weight)

    def forward(self, ids: Tensor, memory: Tensor) -> Tensor:
        """Logits [B, L, V] of the token after each of the ids int64 [B, L], for images' tokens [B, T, C]."""
        x, memory = self.tokens(ids) + self.positions[: ids.shape[1]], self.facing(memory)
        for block in self.blocks:
            x = block(x, memory)
        logits: Tensor = self.out(self.norm(x))
        return logits

    def seen(self, memory: Tensor) -> list[Seen]:
        """Keys and values of images' tokens [B, T, C] for the cross-attention of each block."""
        memory = self.facing(memory)
        return [block.cross.seen(memory) for block in self.blocks]

    def begin(self, memory: Tensor) -> Cache:
        """The cache before the first token, for images' tokens [B, T, C]."""
        shape = self.shape
        empty = memory.new_zeros(len(memory), shape.heads, shape.length, shape.width // shape.heads)
        image = self.seen(memory)
        # autocast may have made keys of another type than the tokens'
        return Cache([Seen(empty.to(one.keys.dtype), empty.to(one.keys.dtype)) for one in image], image)

    def read(self, ids: Tensor, places: Tensor, cache: Cache) -> tuple[Tensor, Cache]:
        """Logits [B, n, V] of the token after each of the ids int64 [B, n] at places int64 [B, n], and the new cache.

        A token does not attend to later places of the cache. So texts of different lengths, padded at the right, are
        read together, and the next token of each text overwrites its padding.
        """
        x, read = self.tokens(ids) + self.positions[places], []
        for block, before, image in zip(self.blocks, cache.read, cache.image, strict=True):
            x, seen = block.read(x, places, before, image)
            read.append(seen)
        return self.out(self.norm(x)), Cache(read, cache.image)


def answer_loss(logits: Tensor, ids: Tensor, answers: Tensor) -> Tensor:
    """Cross-entropy of the answers' tokens: the mean over the tokens of each text, then over texts.

    Args:
        logits: [B, L, V] of the token after each token.
        ids: int64 [B, L].
        answers: bool [B, L]: tokens that are learnt; at least one in each text, never the first.
    """
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    each = F.cross_entropy(logits[:, :-1].transpose(1, 2), ids[:, 1:], reduction="none")
    learnt = answers[:, 1:].to(each.dtype)
    return ((each * learnt).sum(dim=1) / learnt.sum(dim=1)).mean()
