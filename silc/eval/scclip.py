"""SC-CLIP: outlying tokens are replaced, and patches that were alike in the middle of the tower are brought together.

Bai et al., "Self-Calibrated CLIP", arXiv 2411.15869; the authors' code has no licence, and none of it is used here.
In a tower with 12 blocks, counted from 1:

1. Of the patches entering the last block, the 5 % with the highest local outlier factor (30 neighbours, squared
   distances) are outliers. Each outlier becomes the mean of its neighbours in the image that are no outliers.
2. Similarities are cosines of the output of block 9, with the same patches replaced. Each patch becomes the mean of
   the patches with a similarity of 0.4 or more, weighted by similarity.
3. The last block gathers the values with weights that are half softmax(3 (similarity - mean), negatives out) and half
   softmax(k k' / sqrt(c)). It has no residual and no MLP, but adds 0.3 of the class token if there is one.
4. The result is gathered once more, by similarities of the output of block 4. Steps 3 and 4 are repeated with the sum
   of the outputs of blocks 4 to 10 in place of the last block's input, and both results are added.

The decoder is raw: nothing is tuned on labels. In a tower of another depth we take blocks at the same relative depth.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F

from silc.eval.last_block import cosines, mean_of, sharpened, tower_of

if TYPE_CHECKING:
    from torch import Tensor

    from silc.encoder import DualEncoder
    from silc.models.vit import Block

NEIGHBOURS, OUTLYING = 30, 0.05
ALIKE, SHARPNESS, OF_CLASS_TOKEN = 0.4, 3, 0.3
SIMILAR, GATHERED, FIRST, LAST = 9, 4, 4, 10
"""Blocks of 12, counted from 1: for similarities, for the second gathering, and first and last of those summed."""


def features(model: DualEncoder, images: Tensor, readout: str) -> Tensor:
    """Patch features [B, h, w, D].

    Raises:
        BadInput: the model has no ViT whose blocks can be changed.
    """
    tower = tower_of(model)
    blocks: list[Any] = list(tower.trunk.blocks)
    depth, block = len(blocks), blocks[-1]
    kept = tower.trunk.tokens(images, layers=range(depth), last_block=lambda _, x: x).layers

    def left_by(number: int) -> Tensor:
        return kept[max(1, round(number * depth / 12)) - 1]

    prefix = tower.trunk.num_prefix_tokens
    grid = tower.grid(images)
    entering = kept[-1]
    outlying = torch.stack([outliers(one) for one in entering[:, prefix:]])
    similarity = cosines(replaced(left_by(SIMILAR)[:, prefix:], outlying, grid))
    again = gathering(cosines(left_by(GATHERED)[:, prefix:]))
    patches = gathering(similarity) @ replaced(entering[:, prefix:], outlying, grid)
    first = again @ attended(block, patches, entering[:, :prefix], similarity)
    summed = torch.stack([left_by(number) for number in range(FIRST, LAST + 1)]).sum(dim=0)
    second = again @ attended(block, summed[:, prefix:], summed[:, :prefix], similarity)
    return tower.in_joint_space(tower.trunk.norm(first + second), grid).float()


def outliers(x: Tensor) -> Tensor:
    """Which of tokens [T, C] are the most outlying, bool [T], by the local outlier factor of squared distances."""
    count = min(NEIGHBOURS, len(x) - 1)
    if count < 1:
        return torch.zeros(len(x), dtype=torch.bool, device=x.device)
    distances = torch.cdist(x, x).square().fill_diagonal_(-1)  # so that each token is its own nearest
    near = distances.topk(count + 1, largest=False)
    distance, index = near.values[:, 1:], near.indices[:, 1:]
    reach = torch.maximum(distance, distance[:, -1][index])
    density = 1 / reach.mean(dim=1).clamp(min=1e-12)
    factor = density[index].mean(dim=1) / density
    return factor > factor.float().quantile(1 - OUTLYING)


def replaced(x: Tensor, which: Tensor, grid: tuple[int, int]) -> Tensor:
    """Tokens [B, T, C] of a grid, with those in `which`, bool [B, T], replaced.

    A replaced token is the mean of those of its 8 neighbours that are not in `which`.
    """
    maps, kept = x.transpose(1, 2).unflatten(2, grid), (~which).unflatten(1, grid)[:, None].to(x)
    around = 9 * F.avg_pool2d(maps * kept, 3, stride=1, padding=1)
    number = 9 * F.avg_pool2d(kept, 3, stride=1, padding=1)
    mean = (around / number.clamp(min=1)).flatten(2).transpose(1, 2)
    alone = number.flatten(1) < 0.5
    return torch.where((which & ~alone)[..., None], mean, x)


def gathering(similarity: Tensor) -> Tensor:
    """Weights [B, T, T] with rows that sum to 1: the similarities of at least ALIKE."""
    weights = similarity * (similarity >= ALIKE)
    return weights / weights.sum(dim=-1, keepdim=True)


def attended(block: Block, patches: Tensor, prefix: Tensor, similarity: Tensor) -> Tensor:
    """The changed last block's output for patches [B, T, C], plus a share of the class token [B, 0 or 1, C]."""
    _, k, v = block.attn.split(block.norm1(patches))
    alike = sharpened(similarity, SHARPNESS, mean_of(similarity))[:, None]
    keys = ((k * k.shape[-1] ** -0.5) @ k.transpose(-2, -1)).softmax(dim=-1)
    found = block.attn.merge((alike + keys) / 2 @ v)
    return found + OF_CLASS_TOKEN * prefix if prefix.shape[1] else found
