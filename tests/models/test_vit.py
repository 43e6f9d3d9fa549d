"""The ViT against timm's, which it stands for: outputs, gradients and initial values, to the bit."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from timm.layers.attention_pool import AttentionPoolLatent
from timm.layers.create_act import get_act_layer
from timm.layers.norm import LayerNorm
from timm.layers.pos_embed import resample_abs_pos_embed
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from silc.errors import BadInput
from silc.models.config import ImageTowerConfig
from silc.models.vit import RESAMPLE, AttentionPool, Trunk, resample_positions

POOLS = {"map": "map", "cls": "token", "mean": "avg"}


def timms(config: ImageTowerConfig) -> VisionTransformer:
    return VisionTransformer(
        img_size=config.size,
        patch_size=config.patch,
        embed_dim=config.width,
        depth=config.depth,
        num_heads=config.heads,
        mlp_ratio=config.mlp / config.width,
        class_token=config.pool == "cls",
        global_pool=POOLS[config.pool],  # type: ignore[arg-type]
        fc_norm=False,
        num_classes=0,
        dynamic_img_size=True,
        pre_norm=config.pre_norm,
        act_layer=config.activation,
        norm_layer=partial(LayerNorm, eps=config.norm_eps),
    )


def seeded(make: Any, *args: Any) -> Any:
    torch.manual_seed(3)
    return make(*args)


def passed(trunk: Any, images: Tensor) -> tuple[Tensor, Tensor, list[tuple[str, Tensor]]]:
    """Tokens, pooled features and every gradient."""
    trunk.zero_grad()
    tokens = trunk.tokens(images).final if isinstance(trunk, Trunk) else trunk.forward_features(images)
    pooled = trunk.forward_head(tokens)
    (pooled.square().sum() + tokens.sin().sum()).backward()
    return tokens, pooled, [(name, p.grad) for name, p in trunk.named_parameters()]


@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize(("activation", "pre_norm"), [("gelu", False), ("gelu_tanh", False), ("quick_gelu", True)])
def test_a_seed_means_timms_weights_and_they_compute_what_timm_computes(
    pool: Any, activation: Any, pre_norm: bool
) -> None:
    config = ImageTowerConfig(
        32, 8, 24, depth=2, heads=2, mlp=40, pool=pool, activation=activation, pre_norm=pre_norm, norm_eps=1e-5
    )
    ours, theirs = seeded(Trunk, config), seeded(timms, config)
    assert [name for name, _ in ours.named_parameters()] == [name for name, _ in theirs.named_parameters()]
    for name, value in theirs.state_dict().items():
        assert torch.equal(ours.state_dict()[name], value), name
    assert seeded(lambda: (Trunk(config), torch.rand(1)))[1] == seeded(lambda: (timms(config), torch.rand(1)))[1]
    for fused in (True, False):
        for part in (*ours.modules(), *theirs.modules()):
            if hasattr(part, "fused_attn"):
                part.fused_attn = fused
        for side in ((32, 32), (16, 16), (48, 24)):
            images = torch.randn(3, 3, *side)
            for got, expected in zip(passed(ours, images)[:2], passed(theirs, images)[:2], strict=True):
                assert torch.equal(got, expected)
            for (name, got), (_, expected) in zip(passed(ours, images)[2], passed(theirs, images)[2], strict=True):
                assert torch.equal(got, expected), name


@torch.no_grad()
@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("pre_norm", [False, True])
def test_layers_are_timms_intermediate_layers(pool: Any, pre_norm: bool) -> None:
    config = ImageTowerConfig(32, 8, 24, depth=4, heads=2, mlp=40, pool=pool, pre_norm=pre_norm)
    ours, theirs = Trunk(config), timms(config)
    for parameter in ours.parameters():  # also biases and scales, which start at 0 and 1
        torch.nn.init.normal_(parameter, std=0.3)
    theirs.load_state_dict(ours.state_dict())
    images = torch.randn(2, 3, 48, 24)
    final, layers = ours.tokens(images, layers=(2, 0, -1))
    assert torch.equal(final, theirs.forward_features(images))
    options: dict[str, Any] = {"return_prefix_tokens": True, "output_fmt": "NLC"}
    _, expected = theirs.forward_intermediates(images, [0, 2, 3], **options)
    for got, number in zip(layers, (1, 0, 2), strict=True):
        patches, prefix = expected[number] if pool == "cls" else (expected[number], final[:, :0])
        assert torch.equal(got, torch.cat([prefix, patches], dim=1))
    normed = theirs.get_intermediate_layers(images, [0, 2], norm=True)  # what DINOv2's linear probes read
    for got, patches in zip((layers[1], layers[0]), normed, strict=True):
        assert torch.equal(ours.norm(got)[:, ours.num_prefix_tokens :], patches)
    assert ours.tokens(images).layers == []


def test_the_last_layer_is_that_of_the_last_block_that_was_run() -> None:
    config = ImageTowerConfig(32, 8, 24, depth=3, heads=2, mlp=40)
    trunk, images = Trunk(config), torch.randn(2, 3, 32, 32)
    final, (before, last) = trunk.tokens(images, layers=(1, 2), last_block=lambda block, x: 2 * x)
    assert torch.equal(last, 2 * before)
    assert torch.equal(final, trunk.norm(last))


@pytest.mark.parametrize("layer", [3, -4])
def test_a_layer_that_there_is_not_is_refused(layer: int) -> None:
    trunk = Trunk(ImageTowerConfig(32, 8, 24, depth=3, heads=2, mlp=40))
    with pytest.raises(BadInput, match=f"no layer {layer}; it has 0 to 2, or -3 to -1"):
        trunk.tokens(torch.randn(1, 3, 32, 32), layers=(0, layer))


@pytest.mark.parametrize("rule", RESAMPLE)
@pytest.mark.parametrize("prefix", [0, 1])
def test_positions_are_resampled_as_timm_resamples_them(rule: str, prefix: int) -> None:
    options = dict(RESAMPLE[rule])
    options["interpolation"] = options.pop("mode")
    positions = torch.randn(1, prefix + 16, 6)
    for new in ((4, 4), (2, 8), (7, 3)):
        theirs = resample_abs_pos_embed(positions, list(new), [4, 4], num_prefix_tokens=prefix, **options)
        assert torch.equal(resample_positions(positions, (4, 4), new, prefix=prefix, rule=rule), theirs)


def test_the_pool_by_itself_is_timms() -> None:
    def theirs() -> AttentionPoolLatent:
        act: Any = get_act_layer("gelu_tanh")
        return AttentionPoolLatent(
            24, num_heads=3, mlp_ratio=2.0, norm_layer=partial(LayerNorm, eps=1e-6), act_layer=act
        )

    ours, expected = seeded(AttentionPool, 24, 3, 48, "gelu_tanh", 1e-6), seeded(theirs)
    for name, value in expected.state_dict().items():
        assert torch.equal(ours.state_dict()[name], value), name
    x = torch.randn(2, 5, 24)
    assert torch.equal(ours(x), expected(x))


def test_a_side_that_the_patch_does_not_divide_is_refused() -> None:
    trunk = Trunk(ImageTowerConfig(32, 8, 24, depth=1, heads=2, mlp=40))
    with pytest.raises(AssertionError, match="a side of 20 px is no multiple of the patch's 8"):
        trunk.tokens(torch.randn(1, 3, 32, 20))
