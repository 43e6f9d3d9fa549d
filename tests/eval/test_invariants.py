"""What holds for every decoder there is: a constant map stays constant, attention's rows sum to 1, orthogonal groups do
not mix where weights are cut off, and an image never depends on its neighbours in a batch.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from silc.errors import BadInput
from silc.eval import joint, last_block, scclip
from silc.eval.config import LOOK_TWICE, EvalConfig
from silc.eval.decoders import DECODERS, predictor_of
from silc.eval.joint import JointPredictor
from silc.eval.score_map import Box, Window
from silc.eval.sliding import Scorer, score_maps, window_rules
from silc.models.config import ImageTowerConfig
from silc.models.image import ImageTower
from tests.eval.conftest import Encoded

SIZE, PATCH, WIDTH = 32, 8, 32
POOLS = ["cls", "map", "mean"]


def drawn(pool: str) -> Encoded:
    """A model of random weights, whose second encoder is another tower."""
    config = ImageTowerConfig(size=SIZE, patch=PATCH, width=WIDTH, depth=3, heads=2, mlp=64, pool=pool)
    towers = [ImageTower(config, WIDTH).eval() for _ in range(2)]
    with torch.no_grad():
        for parameter in (p for tower in towers for p in tower.parameters()):
            parameter.add_(0.2 * torch.randn(parameter.shape))
    return Encoded(towers[0], SIZE, Encoded(towers[1], SIZE))


def class_maps(model: Encoded, decoder: str, images: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
    """[B, C, h, w], each image one window."""
    with torch.no_grad():
        predictor = predictor_of(model, EvalConfig(decoder=decoder))
        maps = predictor.maps(images, classes)
        if isinstance(predictor, JointPredictor):
            high, wide = images.shape[-2:]
            boxes = [Window(Box(0, 0, high, wide), own, high, wide) for own in maps]
            maps = torch.stack([predictor.joined([box], classes)[0].patches for box in boxes])
        return maps


@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("decoder", DECODERS)
def test_a_constant_map_stays_constant(decoder: str, pool: str) -> None:
    """All patches of an image of one colour are alike in a tower without positions."""
    model, classes = drawn(pool), F.normalize(torch.randn(3, WIDTH), dim=-1)
    for one in (model, model.second):
        one.visual.trunk.pos_embed.data.zero_()
    maps = class_maps(model, decoder, torch.full((1, 3, 40, 24), 0.7), classes)[0].flatten(1)
    if decoder == "lposs":  # what patches receive depends on where they are, and is the same for all classes
        maps = maps / maps[:1]
    assert maps.std(dim=1).max() < 1e-4 * maps.abs().max()
    assert len(set(maps.argmax(0).tolist())) == 1


@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("decoder", [*last_block.FEATURES, "scclip", "radseg"])
def test_rows_of_attention_sum_to_one(decoder: str, pool: str, monkeypatch) -> None:
    """Where all values are the same vector, what the heads find is that vector, twice in SCLIP's sum of two."""
    model = drawn(pool)
    block = model.visual.trunk.blocks[-1]
    attention = block.attn
    attention.qkv.weight.data[2 * WIDTH :] = 0
    value = attention.qkv.bias[2 * WIDTH :].unflatten(0, (2, -1))[None, :, None]  # [1, heads, 1, c]
    merged, honest = [], attention.merge
    monkeypatch.setattr(attention, "merge", lambda x: merged.append(x) or honest(x), raising=False)
    class_maps(model, decoder, torch.randn(2, 3, 40, 24), torch.eye(WIDTH)[:2])
    assert merged
    for found in merged:
        torch.testing.assert_close(found, ((1 + (decoder == "sclip")) * value).expand_as(found), atol=1e-5, rtol=1e-4)


def test_gathered_features_are_means() -> None:
    """A channel that all features share comes out as it went in: SCGA's rows and SC-CLIP's gathering sum to 1."""
    features = torch.cat([torch.randn(30, 7), torch.ones(30, 1)], dim=1).double()
    torch.testing.assert_close(joint.aggregated(features)[:, -1], torch.ones(30).double())
    gathered = scclip.gathering(last_block.cosines(features)) @ features
    torch.testing.assert_close(gathered[:, -1], torch.ones(30).double())


def orthogonal_groups(sizes: tuple[int, int] = (7, 9)) -> tuple[torch.Tensor, torch.Tensor]:
    """Features [T, D] of two groups whose cosines are 0, in mixed order, and which is which."""
    group = torch.randperm(sum(sizes)) < sizes[0]
    near = torch.rand(sum(sizes), 3).double() + 1
    return torch.cat([near * group[:, None], near * ~group[:, None]], dim=1), group


def test_orthogonal_groups_do_not_mix_where_weights_are_cut_off() -> None:
    """What one group is given does not depend on what the other has: SCGA, SC-CLIP's gathering, LPOSS, ProxyCLIP."""
    features, group = orthogonal_groups()
    other = torch.randn(16, 4).double() * ~group[:, None]  # what the second group alone has
    mixed = joint.aggregated(features)
    assert not mixed[group][:, 3:].any()
    assert not mixed[~group][:, :3].any()
    assert not (scclip.gathering(last_block.cosines(features)) @ other)[group].any()
    system = joint.laplacian(F.normalize(features, dim=-1), torch.rand(16, 2).double() * 40)
    assert not joint.propagated(system, other)[group].any()
    assert joint.propagated(system, other)[~group].any()
    weights = last_block.sharpened(
        last_block.cosines(features), 3, 1.2 * last_block.mean_of(last_block.cosines(features))
    )
    assert not (weights @ other)[group].any()


@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("decoder", DECODERS)
def test_an_image_does_not_depend_on_its_neighbours(decoder: str, pool: str) -> None:
    """Images of several shapes, windows of all computed together, against each alone."""
    model, rng = drawn(pool), np.random.default_rng(0)
    classes = F.normalize(torch.randn(3, WIDTH), dim=-1)
    predictor = predictor_of(model, EvalConfig(decoder=decoder))
    scorer = Scorer(predictor, classes, window_rules(predictor, EvalConfig(decoder=decoder)), 16)
    sizes = ((40, 60), (40, 60), (64, 40))
    images = [Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)) for size in sizes]
    together = [found.whole() for found in score_maps(images, scorer)]
    for image, both in zip(images, together, strict=True):
        (alone,) = (found.whole() for found in score_maps([image], scorer))
        assert both.isfinite().all()
        torch.testing.assert_close(both, alone, atol=2e-4, rtol=1e-3)


@pytest.mark.parametrize("decoder", sorted(set(DECODERS) - {"cosine", "scga"}))
def test_a_model_that_a_decoder_cannot_have_is_told_before_it_sees_an_image(oracle, decoder: str) -> None:
    needed = "has no second encoder" if decoder == "proxyclip" else "has no last block to change"
    with pytest.raises(BadInput, match=needed):
        predictor_of(oracle, EvalConfig(decoder=decoder))
    assert set(LOOK_TWICE) < set(DECODERS)
