"""Dense readouts against reference computations on timm's and open_clip's own modules, with random weights."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from open_clip.transformer import VisionTransformer as OpenClipViT
from timm.models.vision_transformer import VisionTransformer, checkpoint_filter_fn
from torch import nn

from silc.models.config import ImageTowerConfig
from silc.models.image import ImageTower
from silc.models.readouts import map_value

SIZE, PATCH, WIDTH, JOINT = 32, 8, 32, 24


def tower(pool: str, **options: object) -> ImageTower:
    config = ImageTowerConfig(size=SIZE, patch=PATCH, width=WIDTH, depth=2, heads=4, mlp=64, pool=pool, **options)
    model = ImageTower(config, WIDTH if pool == "map" else JOINT).eval()
    for parameter in model.parameters():  # also biases and scales, which start at 0 and 1
        nn.init.normal_(parameter, std=0.3)
    return model


def images(height: int = SIZE, width: int = SIZE) -> torch.Tensor:
    return torch.randn(2, 3, height, width)


def only_itself(tokens: int) -> torch.Tensor:
    """MaskCLIP as TCL computes it: attention masked down to its diagonal."""
    return torch.full((tokens, tokens), -torch.inf).fill_diagonal_(0)


def close(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4 * float(theirs.abs().max()))


def timms(model: ImageTower) -> VisionTransformer:
    """timm's ViT with the tower's weights."""
    theirs = VisionTransformer(
        img_size=SIZE,
        patch_size=PATCH,
        embed_dim=WIDTH,
        depth=2,
        num_heads=4,
        mlp_ratio=2,
        class_token=model.pool == "cls",
        global_pool={"map": "map", "cls": "token", "mean": "avg"}[model.pool],  # type: ignore[arg-type]
        fc_norm=False,
        num_classes=0,
        dynamic_img_size=True,
        norm_layer=partial(nn.LayerNorm, eps=1e-6),
    ).eval()
    theirs.load_state_dict(model.trunk.state_dict())
    return theirs


@torch.no_grad()
def last_block_on_its_diagonal(trunk: VisionTransformer, pixels: torch.Tensor) -> torch.Tensor:
    x = trunk.norm_pre(trunk._pos_embed(trunk.patch_embed(pixels)))
    for block in trunk.blocks[:-1]:
        x = block(x)
    last = trunk.blocks[-1]
    x = x + last.attn(last.norm1(x), attn_mask=only_itself(x.shape[1]))
    x = x + last.mlp(last.norm2(x))
    return trunk.norm(x)[:, trunk.num_prefix_tokens :]


@torch.no_grad()
@pytest.mark.parametrize("size", [(SIZE, SIZE), (24, 48)])
@pytest.mark.parametrize("pool", ["cls", "mean"])
def test_the_value_path_is_attention_masked_to_its_diagonal(pool, size):
    model, pixels = tower(pool), images(*size)
    want = model.head(last_block_on_its_diagonal(timms(model), pixels))
    got = model.dense(pixels, "value_block")
    assert got.shape == (2, size[0] // PATCH, size[1] // PATCH, JOINT)
    close(got.flatten(1, 2), want)


@torch.no_grad()
def test_map_value_is_the_map_head_on_each_token_alone():
    model, pixels = tower("map"), images()
    tokens = model.trunk.tokens(pixels).final
    alone = torch.stack([model.trunk.attn_pool(tokens[:, [t]]) for t in range(tokens.shape[1])], dim=1)
    close(model.dense(pixels, "map_value").flatten(1, 2), alone)


@torch.no_grad()
def test_the_map_head_on_identical_tokens_is_its_dense_readout():
    model = tower("map")
    token = torch.randn(1, 1, WIDTH)
    close(model.trunk.attn_pool(token.expand(1, 7, WIDTH)), map_value(model.trunk, token)[:, 0])


@torch.no_grad()
def test_both_value_paths_together():
    model, pixels = tower("map"), images()
    tokens = last_block_on_its_diagonal(timms(model), pixels)
    alone = torch.stack([model.trunk.attn_pool(tokens[:, [t]]) for t in range(tokens.shape[1])], dim=1)
    close(model.dense(pixels, "value_block+map_value").flatten(1, 2), alone)


@torch.no_grad()
def test_tokens_average_to_the_embedding():
    model, pixels = tower("mean"), images()
    close(model.dense(pixels, "tokens").mean(dim=(1, 2)), model(pixels))


@torch.no_grad()
def test_pooled_features_come_before_the_projection():
    for pool in ("map", "cls", "mean"):
        model, pixels = tower(pool), images()
        assert model.pooled(pixels).shape == (2, WIDTH)
        assert torch.equal(model.head(model.pooled(pixels)), model(pixels))


# --- open_clip's towers


@torch.no_grad()
def test_value_block_of_open_clips_own_vit():
    """CLIP's ViT as open_clip writes it (class token, norm before the blocks), masked in its own code."""
    theirs = OpenClipViT(SIZE, PATCH, WIDTH, layers=2, heads=4, mlp_ratio=2, output_dim=JOINT).eval()
    for parameter in theirs.parameters():
        nn.init.normal_(parameter, std=0.3)
    ours = tower("cls", pre_norm=True, norm_eps=1e-5)
    weights = {f"visual.{name}": tensor for name, tensor in theirs.state_dict().items() if name != "proj"}
    ours.trunk.load_state_dict(checkpoint_filter_fn(weights, ours.trunk))
    ours.head.proj.weight.copy_(theirs.proj.T)
    pixels = images()
    close(ours(pixels), theirs(pixels))

    x = theirs._embeds(pixels)
    first, last = theirs.transformer.resblocks
    x = last(first(x), attn_mask=only_itself(x.shape[1]))
    close(ours.dense(pixels, "value_block").flatten(1, 2), theirs.ln_post(x)[:, 1:] @ theirs.proj)
    plain = theirs.ln_post(theirs.transformer(theirs._embeds(pixels)))[:, 1:] @ theirs.proj
    close(ours.dense(pixels, "tokens").flatten(1, 2), plain)


@torch.no_grad()
def test_map_value_of_open_clips_siglip():
    """SigLIP as open_clip builds it, a timm trunk with its MAP pool."""
    from open_clip.timm_model import TimmModel

    theirs = TimmModel("vit_base_patch32_siglip_256", embed_dim=768, pool="map", proj="none", pretrained=False).eval()
    config = ImageTowerConfig(256, 32, 768, depth=12, heads=12, mlp=3072, activation="gelu_tanh")
    ours = ImageTower(config, 768).eval()
    ours.trunk.load_state_dict(theirs.trunk.state_dict())
    pixels = images(256, 256)
    close(ours(pixels), theirs(pixels))
    tokens = theirs.trunk.forward_features(pixels)
    alone = torch.stack([theirs.trunk.attn_pool(tokens[:, [t]]) for t in range(tokens.shape[1])], dim=1)
    close(ours.dense(pixels, "map_value").flatten(1, 2), alone)
