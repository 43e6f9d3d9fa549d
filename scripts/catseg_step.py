"""A training step of CAT-Seg's head against the authors' operations on the same weights: CPU seconds and memory.

The authors repeat what classes share (guidance of appearance and text, the tokens that fill up) for each of them, and
make targets of all pixels and classes. Each way runs in a process of its own, forward and backward, in float32 on one
thread.

    python -m scripts.catseg_step [CLASSES] [SIDE]        # 40 classes, 24 patches a side by default
"""

from __future__ import annotations

import multiprocessing
import resource
import sys
import time
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from silc.heads.catseg.aggregator import Aggregator, ClassTransformer, SwinBlock, Up, apart, cut, joined, window_of
from silc.heads.catseg.config import AggregatorConfig
from silc.heads.catseg.model import bce

DIM, STEPS, IGNORED = 512, 3, 255


def plain_swin(block: SwinBlock, x: Tensor, guidance: Tensor) -> Tensor:
    """A block on x [B T, h, w, C] and guidance [B T, h, w, G]."""
    high, wide = x.shape[1:3]
    window = window_of(high, wide, block.window)
    shift = window // 2 if block.shifted and window < min(high, wide) else 0
    attn: Any = block.attn
    own = block.norm1(x)
    seen = torch.cat([own, guidance], dim=-1).roll((-shift, -shift), (1, 2))
    q, k, v = (
        cut(one[None], window)[0].flatten(0, 1).unflatten(-1, (attn.heads, -1)).transpose(1, 2)
        for one in (
            F.linear(seen, attn.q.weight, attn.q.bias),
            F.linear(seen, attn.k.weight, attn.k.bias),
            attn.v(seen[..., : x.shape[-1]]),
        )
    )
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)
    if shift:
        mask = apart(high, wide, window, shift, q)
        scores = (scores.unflatten(0, (-1, len(mask))) + mask[:, None]).flatten(0, 1)
    found = (scores.softmax(dim=-1) @ v).transpose(1, 2).flatten(2).unflatten(0, (len(x), -1))
    back: Tensor = attn.proj(joined(found[None], high, wide, window)[0]).roll((shift, shift), (1, 2))
    x = x + back
    return x + block.mlp(block.norm2(x))  # type: ignore[no-any-return]


def plain_classes(layer: ClassTransformer, x: Tensor, guidance: Tensor) -> Tensor:
    """Attention over classes on x [B, T, C, h, w] and guidance [B, T, G], filled up to `num_classes`."""
    num, classes, _, high, wide = x.shape
    pooled = F.avg_pool2d(x.flatten(0, 1), layer.pool).unflatten(0, (num, classes))
    h, w = pooled.shape[-2:]
    more = layer.num_classes - classes
    filler = layer.padding_tokens.view(1, 1, -1, 1, 1).expand(num, more, -1, h, w)
    seen = torch.cat([pooled, filler], dim=1).permute(0, 3, 4, 1, 2).flatten(0, 2)  # [B h w, 256, C]
    guidance = torch.cat([guidance, layer.padding_guidance.expand(num, more, -1)], dim=1)
    guidance = guidance[:, None].expand(-1, h * w, -1, -1).flatten(0, 1)
    attn, own = layer.attention, layer.norm1(seen)
    both = torch.cat([own, guidance], dim=-1)
    q, k, v = (
        one.unflatten(-1, (attn.heads, -1))
        for one in (F.linear(both, attn.q.weight, attn.q.bias), F.linear(both, attn.k.weight, attn.k.bias), attn.v(own))
    )
    q, k, v = F.elu(q) + 1, F.elu(k) + 1, v / v.shape[1]
    total = torch.einsum("nshd,nshv->nhdv", k, v)
    share = 1 / (torch.einsum("nlhd,nhd->nlh", q, k.sum(dim=1)) + 1e-6)
    seen = seen + (torch.einsum("nlhd,nhdv,nlh->nlhv", q, total, share) * v.shape[1]).flatten(2)
    seen = seen + layer.MLP(layer.norm2(seen))
    back = seen.unflatten(0, (num, h, w)).permute(0, 3, 4, 1, 2).flatten(0, 1)
    back = F.interpolate(back, (high, wide), mode="bilinear", align_corners=True).unflatten(0, (num, -1))
    return x + back[:, :classes]


def plain_up(stage: Up, x: Tensor, guidance: Tensor) -> Tensor:
    """A stage of the decoder on x [B T, C, h, w]."""
    repeated = guidance.repeat_interleave(len(x) // len(guidance), dim=0)
    return stage.conv.double_conv(torch.cat([stage.up(x), repeated], dim=1))  # type: ignore[no-any-return]


def plain(net: Aggregator, patches: Tensor, texts: Tensor, layers: list[Tensor]) -> Tensor:
    """Logits as the authors' forward pass makes them."""
    num, classes = len(patches), texts.shape[1]
    costs = torch.einsum("bchw,btpc->bpthw", F.normalize(patches, dim=1), F.normalize(texts, dim=-1))
    x = net.conv1(costs.transpose(1, 2).flatten(0, 1)).unflatten(0, (num, classes))
    appearance = net.guidance_projection(patches).permute(0, 2, 3, 1)
    words = net.text_guidance_projection(F.normalize(texts.mean(dim=2), dim=-1))
    layer: Any
    for layer in net.layers:
        repeated = layer.swin_block.guidance_norm(appearance.repeat_interleave(classes, dim=0))
        maps = x.flatten(0, 1).permute(0, 2, 3, 1)
        for block in (layer.swin_block.block_1, layer.swin_block.block_2):
            maps = plain_swin(block, maps, repeated)
        x = plain_classes(layer.attention, maps.permute(0, 3, 1, 2).unflatten(0, (num, classes)), words)
    first, second = (project(one) for project, one in zip(net.decoder_guidance_projection, layers, strict=True))
    x = plain_up(net.decoder2, plain_up(net.decoder1, x.flatten(0, 1), first), second)
    return net.head(x)[:, 0].unflatten(0, (num, classes))  # type: ignore[no-any-return]


def plain_loss(logits: Tensor, truth: Tensor) -> Tensor:
    """With targets of all pixels and classes."""
    upsampled = F.interpolate(logits, truth.shape[-2:], mode="bilinear", align_corners=False).permute(0, 2, 3, 1)
    labelled, targets = truth != IGNORED, torch.zeros_like(upsampled)
    targets[labelled] = F.one_hot(truth[labelled].long(), logits.shape[1]).to(targets.dtype)
    return F.binary_cross_entropy_with_logits(upsampled, targets)


def inputs(
    classes: int, side: int, config: AggregatorConfig, dim: int = DIM
) -> tuple[Tensor, Tensor, list[Tensor], Tensor]:
    """Patches, texts, layers and truth of one image."""
    torch.manual_seed(0)
    patches, texts = torch.randn(1, dim, side, side), torch.randn(1, classes, 1, dim)
    layers = [torch.randn(1, c, k * side, k * side) for c, k in zip(config.decoder_guidance, (2, 4), strict=True)]
    truth = torch.randint(0, classes, (1, 16 * side, 16 * side))
    truth[:, ::3] = IGNORED
    return patches, texts, layers, truth


def step(way: str, net: Aggregator, given: tuple[Tensor, Tensor, list[Tensor], Tensor]) -> Tensor:
    """Forward and backward; the loss."""
    patches, texts, layers, truth = given
    loss = (
        bce(net(patches, texts, layers), truth)
        if way == "ours"
        else plain_loss(plain(net, patches, texts, layers), truth)
    )
    loss.backward()
    return loss.detach()


def measured(way: str, classes: int, side: int, found: Any) -> None:
    """CPU seconds of a step, the best of some, and what the process took beyond its inputs, in MB."""
    torch.set_num_threads(1)
    config = AggregatorConfig()
    net, given = Aggregator(config, DIM), inputs(classes, side, config)
    before, seconds = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3, []
    for _ in range(STEPS):
        net.zero_grad()
        start = time.process_time()
        step(way, net, given)
        seconds.append(time.process_time() - start)
    found.put((way, min(seconds), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3 - before))


def main(classes: int = 40, side: int = 24) -> None:
    """Measure both, one after the other."""
    context = multiprocessing.get_context("spawn")
    rows = {}
    for way in ("the authors' operations", "ours"):
        found = context.Queue()
        process = context.Process(target=measured, args=(way, classes, side, found))
        process.start()
        _, *rows[way] = found.get()
        process.join()
        print(f"{way:<24}{rows[way][0]:8.2f} CPU s a step {rows[way][1]:8.0f} MB")
    theirs, ours = rows.values()
    print(f"{theirs[0] / ours[0]:.2f} times the time, {theirs[1] / ours[1]:.2f} times the memory")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
