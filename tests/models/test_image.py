"""The image tower: sizes, pooling, positions and names."""

from __future__ import annotations

from typing import Any

import pytest
import scipy.ndimage
import timm
import torch
import torch.nn.functional as F
from torch import nn

from silc.errors import BadInput
from silc.models.config import ImageTowerConfig, ModelConfig
from silc.models.image import ImageTower
from silc.models.readouts import READOUTS

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
        with pytest.raises(BadInput, match=f"{pool} pooling has no dense readout"):
            model.dense(torch.randn(1, 3, 16, 16), readout)


def test_cls_embedding_is_the_projected_class_token() -> None:
    model, images = tower("cls"), torch.randn(2, 3, 32, 32)
    token = model.trunk.tokens(images).final[:, 0]
    torch.testing.assert_close(model(images), model.head.proj(token), rtol=1e-6, atol=1e-6)


def test_state_dict_is_timms_siglip() -> None:
    """Same names and shapes as timm's SigLIP tower, same output: weights travel without a table."""
    theirs = timm.create_model("vit_base_patch16_siglip_256", num_classes=0, dynamic_img_size=True, depth=1).eval()
    config = ImageTowerConfig(size=256, patch=16, width=768, depth=1, heads=12, mlp=3072, pool="map")
    model = ImageTower(config, 768).eval()
    model.trunk.load_state_dict(theirs.state_dict())
    images = torch.randn(1, 3, 96, 96)
    with torch.no_grad():
        torch.testing.assert_close(model(images), theirs(images), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("pool", ["map", "cls"])
@pytest.mark.parametrize("rule", ["bicubic_antialias", "bicubic", "bilinear_antialias", "bilinear_corners"])
def test_positions_are_resampled_as_recorded(pool: Any, rule: Any) -> None:
    """Against torch (and, for big_vision's rule, scipy) on the grid; the class token's position stays."""
    config = ImageTowerConfig(
        size=32, patch=8, width=24, depth=1, heads=2, mlp=40, pool=pool, position_resample=rule, projection="linear"
    )
    trunk = ImageTower(config, EMBED).trunk
    prefix = trunk.num_prefix_tokens
    grid = trunk.pos_embed[0, prefix:].detach().unflatten(0, (4, 4))
    patches = torch.zeros(1, 2, 6, 24)
    added = trunk._pos_embed(patches)[0].detach()
    if rule == "bilinear_corners":
        expected = torch.from_numpy(scipy.ndimage.zoom(grid.numpy(), (2 / 4, 6 / 4, 1), order=1))
    else:
        mode, _, antialias = rule.partition("_")
        expected = F.interpolate(
            grid.permute(2, 0, 1)[None], size=(2, 6), mode=mode, antialias=bool(antialias), align_corners=False
        )[0].permute(1, 2, 0)
    torch.testing.assert_close(added[prefix:], expected.flatten(0, 1), rtol=1e-5, atol=1e-6)
    if prefix:
        torch.testing.assert_close(added[0], (trunk.cls_token + trunk.pos_embed[:, :1])[0, 0].detach())
    same = trunk._pos_embed(torch.zeros(1, 4, 4, 24))[0, prefix:]
    assert torch.equal(same, trunk.pos_embed[0, prefix:])


@pytest.mark.parametrize("name", ["vit_base_patch16_clip_224", "vit_base_patch16_clip_quickgelu_224"])
def test_clips_tower_is_timms(name: str) -> None:
    """Norm before the blocks, no patch bias, CLIP's epsilon and activation: as timm builds it, strictly loaded."""
    theirs = timm.create_model(name, num_classes=EMBED, depth=1, dynamic_img_size=True).eval()
    for parameter in theirs.parameters():
        nn.init.normal_(parameter, std=0.05)
    config = ImageTowerConfig(
        **{"size": 224, "depth": 1, "pool": "cls", "projection": "linear+bias", "pre_norm": True, "norm_eps": 1e-5},
        activation="quick_gelu" if "quickgelu" in name else "gelu",
    )
    model = ImageTower(config, EMBED).eval()
    weights = dict(theirs.state_dict())
    model.head.load_state_dict({f"proj.{name}": weights.pop(f"head.{name}") for name in ("weight", "bias")})
    model.trunk.load_state_dict(weights)
    images = torch.randn(2, 3, 96, 64)
    with torch.no_grad():
        torch.testing.assert_close(model(images), theirs(images), rtol=1e-5, atol=1e-5)


def test_the_mlp_is_as_wide_as_asked() -> None:
    """timm takes a ratio; widths whose ratio is no short fraction come out whole, tanh activation too."""
    for width, mlp, heads in ((1152, 4304, 16), (24, 41, 2), (48, 191, 3)):
        config = ImageTowerConfig(size=16, width=width, depth=1, heads=heads, mlp=mlp, activation="gelu_tanh")
        trunk: Any = ImageTower(config, width).trunk
        assert trunk.blocks[0].mlp.fc1.out_features == trunk.attn_pool.mlp.fc1.out_features == mlp
        x = torch.randn(5)
        for layer in (trunk.blocks[0].mlp.act, trunk.attn_pool.mlp.act):
            assert torch.equal(layer(x), F.gelu(x, approximate="tanh"))


def test_nonsense_is_refused() -> None:
    with pytest.raises(BadInput, match=r"model\.image\.width 768"):
        ModelConfig(image=ImageTowerConfig(pool="cls", projection="none"), embed_dim=512)
    with pytest.raises(BadInput, match="norm_eps"):
        ImageTowerConfig(norm_eps=-1)
    assert ModelConfig(image=ImageTowerConfig(projection="linear"), embed_dim=512).image.projects
