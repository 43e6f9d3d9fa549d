"""Training-free decoders that change the last block: what replaces attention, and whether residual and MLP are kept.

| decoder            | in place of attention                               | kept          | source, licence        |
| ------------------ | --------------------------------------------------- | ------------- | ---------------------- |
| `maskclip`         | each token's own value                              | residual, MLP | MaskCLIP, Apache-2.0   |
| `maskclip-reduced` | the same                                            | nothing       | NACLIP's ablation, MIT |
| `sclip`            | (softmax(q q') + softmax(k k')) v: a sum, no mean   | residual, MLP | SCLIP, none            |
| `clearclip`        | softmax(q q') v                                     | nothing       | ClearCLIP, S-Lab 1.0   |
| `naclip`           | softmax(k k' + nearness of patches) v               | nothing       | NACLIP, MIT            |
| `scra`             | softmax(10 cos(y, y'), negatives out) v             | residual, MLP | RADSeg, MIT            |
| `proxyclip`        | softmax(3 (cos(e, e') - 1.2 mean), negatives out) v | nothing       | ProxyCLIP, S-Lab 1.0   |

Products of queries and keys are divided by sqrt(c) as in attention; y is the block's own output per head, e a second
encoder's patches; "negatives out": negative values get no weight. All were published for towers with a class token. In
a tower with MAP or mean pooling, the readout continues from the changed block, which is our composition. All are raw:
nothing is tuned on labels. Means are over one image, so an image never depends on others in its batch. Formulas are
derived anew; no code is copied.
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
"""Standard deviation of NACLIP's Gaussian, in patches; its peak is 1."""
SHARPNESS = 10.0
"""Factor on the cosines in RADSeg's softmax over patches."""


def features(model: DualEncoder, images: Tensor, readout: str, *, last_block: LastBlock) -> Tensor:
    """Patch features [B, h, w, D] of an image tower whose last block is replaced by `last_block`.

    Raises:
        BadInput: the model has no ViT whose blocks can be changed.
    """
    return tower_of(model).aligned(images, last_block).float()


def near_features(model: DualEncoder, images: Tensor, readout: str) -> Tensor:
    """Patch features with NACLIP's last block, which needs the grid for the distances between patches.

    Raises:
        BadInput: as `features`.
    """
    tower = tower_of(model)
    return tower.aligned(images, partial(naclip, grid=tower.grid(images))).float()


def proxy_features(model: DualEncoder, images: Tensor, readout: str) -> Tensor:
    """Patch features with ProxyCLIP's last block, on the grid of the second encoder's patches.

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
        BadInput: the model has no second encoder.
    """
    second = second_of(model)
    own = second.preprocess.renormalize(images, model.preprocess)
    sides = [max(1, round(side / second.patch_size)) * second.patch_size for side in images.shape[-2:]]
    if sides != list(images.shape[-2:]):
        own = F.interpolate(own, sides, mode="bilinear", align_corners=False)
    return tower_of(second).patches(own).float()


def second_of(model: DualEncoder) -> Any:
    """The second encoder that the model carries.

    Raises:
        BadInput: the model has none.
    """
    second = getattr(model, "second", None)
    if second is None:
        raise BadInput(
            f"{model.name or 'this model'} has no second encoder, which tells how similar patches are; give eval.second"
        )
    return second


def tower_of(model: DualEncoder) -> ImageTower:
    """The model's image tower.

    Raises:
        BadInput: the model has no ViT of ours.
    """
    tower = getattr(model, "visual", None)
    if not isinstance(tower, ImageTower):
        raise BadInput(f"{model.name or 'this model'} has no last block to change; use eval.decoder cosine")
    return tower


def reduced(block: Block, x: Tensor) -> Tensor:
    """Each token's own value, without residual and MLP."""
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
    """Keys attend to keys, with more weight on near patches; a class token is near to no patch."""
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
    """Self-correlating recursive attention: cosines of the block's own output, per head, gather the values again."""
    q, k, v = block.attn.split(block.norm1(x))
    once = block.attn.merge(attend(q, k, v, fused=False))
    heads = once.unflatten(-1, (block.attn.heads, -1)).transpose(1, 2)
    return _with_residual(block, x, sharpened(cosines(heads), SHARPNESS) @ v)


def proxyclip(block: Block, x: Tensor, grid: tuple[int, int], alike: Tensor) -> Tensor:
    """Values of patches [B, T, C], resized to the grid of `alike` [B, h, w, E] and gathered by its similarities.

    The weights are softmax(3 (cos - 1.2 mean cos)), negatives out, with the mean of each image.
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
    """Cosines [..., T, T] between tokens [..., T, C]."""
    unit = F.normalize(x, dim=-1)
    return unit @ unit.transpose(-2, -1)


def sharpened(similarity: Tensor, sharpness: float, offset: Tensor | float = 0.0) -> Tensor:
    """Weights [..., T, T], each row a softmax of sharpness (similarity - offset) without negative values."""
    scores = sharpness * (similarity - offset)
    # A token always attends to itself, so no row is empty, even if all tokens are alike.
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
"""Function that makes the patch features, by the decoder's name."""


def needs_of(name: str) -> Callable[[DualEncoder], object]:
    """The function that raises `BadInput` for a model that the decoder cannot use."""
    return second_of if name == "proxyclip" else tower_of
