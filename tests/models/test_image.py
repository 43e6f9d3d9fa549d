"""The image tower: sizes, pooling, and every dense readout against its reference computation."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from silc.models.config import ImageTowerConfig
from silc.models.image import READOUTS, ImageTower
from silc.types import BadInput

EMBED = 24


def tower(pool: Any, width: int = 24) -> ImageTower:
    config = ImageTowerConfig(size=32, patch=8, width=width, depth=3, heads=2, mlp=40, pool=pool)
    return ImageTower(config, width if pool == "map" else EMBED).eval()


@pytest.mark.parametrize("pool", ["map", "cls", "mean"])
@pytest.mark.parametrize("side", [(32, 32), (16, 16), (48, 24)])
def test_one_tower_takes_every_size(pool: str, side: tuple[int, int]) -> None:
    model, images = tower(pool), torch.randn(2, 3, *side)
    assert model(images).shape == (2, EMBED)
    for readout in READOUTS[pool]:
        assert model.dense(images, readout).shape == (2, side[0] // 8, side[1] // 8, EMBED)


@pytest.mark.parametrize("pool", ["map", "cls", "mean"])
def test_readouts_that_do_not_go_with_the_pooling_are_refused(pool: str) -> None:
    model = tower(pool)
    for readout in {"tokens", "value_block", "map_value", "value_block+map_value", "typo"} - set(READOUTS[pool]):
        with pytest.raises(BadInput, match=f"does not go with {pool} pooling"):
            model.dense(torch.randn(1, 3, 16, 16), readout)


def test_map_value_is_the_map_head_on_one_token() -> None:
    """z_t equals the pooled output of timm's own attention pool when t is all it gets."""
    model, images = tower("map"), torch.randn(2, 3, 32, 16)
    dense = model.dense(images, "map_value").flatten(1, 2)  # [B, T, D]
    tokens = model.trunk.forward_features(images)
    for t in range(tokens.shape[1]):
        torch.testing.assert_close(dense[:, t], model.trunk.attn_pool(tokens[:, t : t + 1]), rtol=1e-5, atol=1e-6)


def test_map_of_identical_tokens_is_the_dense_feature() -> None:
    model = tower("map")
    token = torch.randn(1, 1, 24)
    pooled = model.trunk.attn_pool(token.expand(1, 7, 24))
    torch.testing.assert_close(model._map_value(token)[:, 0], pooled, rtol=1e-5, atol=1e-6)


def test_mean_of_the_tokens_is_the_pooled_embedding() -> None:
    model, images = tower("mean"), torch.randn(2, 3, 32, 32)
    dense = model.dense(images, "tokens")
    torch.testing.assert_close(dense.mean(dim=(1, 2)), model(images), rtol=1e-5, atol=1e-6)


def test_cls_embedding_is_the_projected_class_token() -> None:
    model, images = tower("cls"), torch.randn(2, 3, 32, 32)
    token = model.trunk.forward_features(images)[:, 0]
    torch.testing.assert_close(model(images), model.head.proj(token), rtol=1e-6, atol=1e-6)


def forward_with_diagonal_mask(trunk: VisionTransformer, images: Tensor) -> Tensor:
    """Reference for the value path: the last block with attention forbidden between different tokens."""

    def diagonal(q: Tensor, k: Tensor, v: Tensor, **_: Any) -> Tensor:
        mask = torch.full((q.shape[-2], k.shape[-2]), float("-inf")).fill_diagonal_(0)
        return original(q, k, v, attn_mask=mask)

    original = F.scaled_dot_product_attention
    x = trunk.norm_pre(trunk._pos_embed(trunk.patch_embed(images)))
    *blocks, last = trunk.blocks
    for block in blocks:
        x = block(x)
    F.scaled_dot_product_attention = diagonal
    try:
        x = last(x)
    finally:
        F.scaled_dot_product_attention = original
    return trunk.norm(x)


@pytest.mark.parametrize("pool", ["map", "cls", "mean"])
def test_value_block_is_attention_to_oneself(pool: str) -> None:
    model, images = tower(pool), torch.randn(2, 3, 32, 24)
    reference = forward_with_diagonal_mask(model.trunk, images)
    torch.testing.assert_close(model._tokens_by_value(images), reference, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(reference, model.trunk.forward_features(images), atol=1e-3)


def test_state_dict_is_timms_siglip() -> None:
    """Same names and shapes as timm's SigLIP tower, same output: weights travel without a table."""
    theirs = timm.create_model("vit_base_patch16_siglip_256", num_classes=0, dynamic_img_size=True, depth=1).eval()
    config = ImageTowerConfig(size=256, patch=16, width=768, depth=1, heads=12, mlp=3072, pool="map")
    model = ImageTower(config, 768).eval()
    model.trunk.load_state_dict(theirs.state_dict())
    images = torch.randn(1, 3, 96, 96)
    with torch.no_grad():
        torch.testing.assert_close(model(images), theirs(images), rtol=1e-5, atol=1e-5)
