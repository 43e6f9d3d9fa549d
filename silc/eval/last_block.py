"""Decoders without training that change the last block: what its tokens attend to, and what is kept beside.

| decoder            | in attention's place                                | beside it     | source, licence        |
| ------------------ | --------------------------------------------------- | ------------- | ---------------------- |
| `maskclip`         | each token's own value                              | residual, MLP | MaskCLIP, Apache-2.0   |
| `maskclip-reduced` | the same                                            | nothing       | NACLIP's ablation, MIT |
| `sclip`            | (softmax(q q') + softmax(k k')) v: a sum, no mean   | residual, MLP | SCLIP, none            |
| `clearclip`        | softmax(q q') v                                     | nothing       | ClearCLIP, S-Lab 1.0   |
| `naclip`           | softmax(k k' + nearness of patches) v               | nothing       | NACLIP, MIT            |
| `scra`             | softmax(10 cos(y, y'), negatives out) v             | residual, MLP | RADSeg, MIT            |
| `proxyclip`        | softmax(3 (cos(e, e') - 1.2 mean), negatives out) v | nothing       | ProxyCLIP, S-Lab 1.0   |

Products of queries and keys are divided by sqrt(c) as in attention; y is the block's own output by head, e a second
encoder's patches. All were published for towers with a class token; a tower with MAP or mean pooling goes on from the
changed block as its readout does, which is our composition. All are raw: nothing is tuned on labels. An image never
depends on its neighbours in a batch, so means are each image's own. Formulas are derived anew; no code is copied.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from silc.encoder import DualEncoder
from silc.errors import BadInput
from silc.models.image import ImageTower
from silc.models.readouts import value_path
from silc.models.vit import attend

if TYPE_CHECKING:
    from silc.models.vit import Block

LastBlock = Callable[["Block", Tensor], Tensor]
DEVIATION = 5.0
"""Of NACLIP's Gaussian, in patches; its peak is 1."""
SHARPNESS = 10.0
"""By which RADSeg multiplies cosines before a softmax."""


def features(model: DualEncoder, images: Tensor, readout: str, *, last_block: LastBlock) -> Tensor:
    """Patch features [B, h, w, D] of a tower whose last block is another one.

    Raises:
        BadInput: the model has no ViT whose blocks can be changed.
    """
    return tower_of(model).aligned(images, last_block).float()


def near_features(model: DualEncoder, images: Tensor, readout: str) -> Tensor:
    """NACLIP's; it has to know how far apart patches are.

    Raises:
        BadInput: as `features`.
    """
    tower = tower_of(model)
    return tower.aligned(images, partial(naclip, grid=tower.grid(images))).float()


def proxy_features(model: DualEncoder, images: Tensor, readout: str) -> Tensor:
    """ProxyCLIP's, on the grid of the second encoder's patches.

    Raises:
        BadInput: as `features`, or the model has no second encoder.
    """
    tower, alike = tower_of(model), second_patches(model, images)
    (entering,) = tower.trunk.tokens(images, layers=[-1], last_block=lambda _, x: x).layers
    block: Any = tower.trunk.blocks[-1]
    found = proxyclip(block, tower.without_prefix(entering), tower.grid(images), alike)
    return tower.in_joint_space(tower.trunk.norm(found), (alike.shape[1], alike.shape[2])).float()


def second_patches(model: DualEncoder, images: Tensor) -> Tensor:
    """Patch tokens [B, h, w, E] that the model's second encoder gives for images normalised for the first.

    Raises:
        BadInput: it has none.
    """
    second = second_of(model)
    own = second.preprocess.renormalize(images, model.preprocess)
    sides = [max(1, round(side / second.patch_size)) * second.patch_size for side in images.shape[-2:]]
    if sides != list(images.shape[-2:]):
        own = F.interpolate(own, sides, mode="bilinear", align_corners=False)
    return tower_of(second).patches(own).float()


def second_of(model: DualEncoder) -> Any:
    """The model's second encoder, of another one's patches.

    Raises:
        BadInput: it has none.
    """
    second = getattr(model, "second", None)
    if second is None:
        raise BadInput(
            f"{model.name or 'this model'} has no second encoder, which tells what is alike; give eval.second"
        )
    return second


def tower_of(model: DualEncoder) -> ImageTower:
    """The model's image tower.

    Raises:
        BadInput: it has none that is a ViT of ours.
    """
    tower = getattr(model, "visual", None)
    if not isinstance(tower, ImageTower):
        raise BadInput(f"{model.name or 'this model'} has no last block to change; take eval.decoder cosine")
    return tower


def reduced(block: Block, x: Tensor) -> Tensor:
    """Values alone."""
    _, _, v = block.attn.split(block.norm1(x))
    return block.attn.merge(v)


def sclip(block: Block, x: Tensor) -> Tensor:
    """Queries attend to queries, and keys to keys."""
    q, k, v = block.attn.split(block.norm1(x))
    return _with_residual(block, x, attend(q, q, v, fused=False) + attend(k, k, v, fused=False))


def clearclip(block: Block, x: Tensor) -> Tensor:
    """Queries attend to queries."""
    q, _, v = block.attn.split(block.norm1(x))
    return block.attn.merge(attend(q, q, v, fused=False))


def naclip(block: Block, x: Tensor, grid: tuple[int, int]) -> Tensor:
    """Keys attend to keys, those of near patches more; a class token is near to none."""
    _, k, v = block.attn.split(block.norm1(x))
    scores = (k * k.shape[-1] ** -0.5) @ k.transpose(-2, -1)
    prefix = x.shape[1] - grid[0] * grid[1]
    near = F.pad(nearness(*grid).to(scores), (prefix, 0, prefix, 0))
    return block.attn.merge((scores + near).softmax(dim=-1) @ v)


def nearness(height: int, width: int) -> Tensor:
    """exp(-d^2 / (2 DEVIATION^2)) [h w, h w] of the distances d between patches."""
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    places = torch.stack([y.flatten(), x.flatten()], dim=1).float()
    return torch.exp(-torch.cdist(places, places).square() / (2 * DEVIATION**2))


def scra(block: Block, x: Tensor) -> Tensor:
    """Self-correlating recursive attention: heads of the block's own output correlate, and gather values once more."""
    q, k, v = block.attn.split(block.norm1(x))
    once = block.attn.merge(attend(q, k, v, fused=False))
    heads = once.unflatten(-1, (block.attn.heads, -1)).transpose(1, 2)
    return _with_residual(block, x, sharpened(cosines(heads), SHARPNESS) @ v)


def proxyclip(block: Block, x: Tensor, grid: tuple[int, int], alike: Tensor) -> Tensor:
    """Values of patches [B, T, C], brought to the grid of other features [B, h, w, E], gathered by what these say.

    softmax(3 (cos - 1.2 mean cos)), negatives out, the mean being each image's own.
    """
    _, _, v = block.attn.split(block.norm1(x))
    size = alike.shape[1:3]
    if tuple(size) != grid:
        maps = v.flatten(0, 1).transpose(1, 2).unflatten(2, grid)  # [B heads, c, h, w]
        maps = F.interpolate(maps, size, mode="bilinear", align_corners=False)
        v = maps.flatten(2).transpose(1, 2).unflatten(0, v.shape[:2])
    similarity = cosines(alike.flatten(1, 2))
    weights = sharpened(similarity, 3, 1.2 * mean_of(similarity))
    return block.attn.merge(weights[:, None].to(v) @ v)


def cosines(x: Tensor) -> Tensor:
    """[..., T, T] of tokens [..., T, C]."""
    unit = F.normalize(x, dim=-1)
    return unit @ unit.transpose(-2, -1)


def sharpened(similarity: Tensor, sharpness: float, offset: Tensor | float = 0.0) -> Tensor:
    """Weights [..., T, T], each row a softmax of sharpness (similarity - offset), negatives out."""
    scores = sharpness * (similarity - offset)
    # Each attends to itself at least, also where all are alike.
    others = ~torch.eye(scores.shape[-1], dtype=torch.bool, device=scores.device)
    return scores.masked_fill((scores < 0) & others, -torch.inf).softmax(dim=-1)


def mean_of(similarity: Tensor) -> Tensor:
    """The mean [..., 1, 1] of each image's own similarities [..., T, T]."""
    return similarity.mean(dim=(-2, -1), keepdim=True)


def _with_residual(block: Block, x: Tensor, found: Tensor) -> Tensor:
    x = x + block.attn.merge(found)
    return x + block.mlp(block.norm2(x))  # type: ignore[no-any-return]


FEATURES: dict[str, Callable[[DualEncoder, Tensor, str], Tensor]] = {
    "maskclip": partial(features, last_block=value_path),
    "maskclip-reduced": partial(features, last_block=reduced),
    "sclip": partial(features, last_block=sclip),
    "clearclip": partial(features, last_block=clearclip),
    "naclip": near_features,
    "scra": partial(features, last_block=scra),
    "proxyclip": proxy_features,
}
"""By the decoder's name."""


def needs_of(name: str) -> Callable[[DualEncoder], object]:
    """What complains of a model that a decoder of these cannot have."""
    return second_of if name == "proxyclip" else tower_of
