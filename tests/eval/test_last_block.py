"""Decoders that change the last block are their authors' to 1e-4, and what attention must be."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from silc.errors import BadInput
from silc.eval import last_block
from silc.eval.config import EvalConfig
from silc.eval.decoders import DECODERS, predictor_of
from silc.models.config import ImageTowerConfig
from silc.models.image import ImageTower
from silc.models.readouts import value_path
from silc.preprocess import Preprocess
from tests.eval.conftest import Encoded

SIZES = ["48x48", "32x72", "40x64", "64x64"]
THEIRS = {
    "maskclip": ("clearclip_repo/MaskCLIP/ignore_residual=0",),
    "maskclip-reduced": ("clearclip_repo/MaskCLIP/ignore_residual=1",),
    "sclip": ("sclip", "clearclip_repo/SCLIP/ignore_residual=0", "naclip_repo/vanilla/csa/std=5.0"),
    "clearclip": ("clearclip_repo/ClearCLIP/ignore_residual=1",),
    "naclip": ("naclip_repo/reduced/naclip/std=5.0",),
    "scra": ("scra_block",),
    "tokens": ("vanilla_tokens", "clearclip_repo/vanilla/ignore_residual=0"),
}
"""The block itself and what replaces it, by the names of the fixture, from whichever code.

Not compared are combinations that nobody published as a method and no decoder here has: `last2` (two layers, summed),
NACLIP's other deviations, attention without residual where the method keeps it, and the other way round. CAT-Seg's
dense features, which keep the class token's residual, are in the fixtures of that head.
"""


@pytest.fixture
def fixture(silc_data: Path) -> np.lib.npyio.NpzFile:
    return np.load(silc_data / "oracles/decoders/clip_vit.npz", allow_pickle=False)


@pytest.fixture
def tower(fixture) -> ImageTower:
    """The fixture's CLIP ViT."""
    config = ImageTowerConfig(
        size=48, patch=8, width=64, depth=3, heads=4, mlp=256, pool="cls", activation="quick_gelu", pre_norm=True
    )
    weights = {name.removeprefix("w/visual."): torch.from_numpy(fixture[name]) for name in fixture if name[:2] == "w/"}
    names = {
        "attn.in_proj_": "attn.qkv.",
        "attn.out_proj": "attn.proj",
        "ln_1": "norm1",
        "ln_2": "norm2",
        "mlp.c_fc": "mlp.fc1",
        "mlp.c_proj": "mlp.fc2",
        "transformer.resblocks": "blocks",
        "conv1": "patch_embed.proj",
        "ln_pre": "norm_pre",
        "ln_post": "norm",
    }
    own = {}
    for name, value in weights.items():
        for theirs, ours in names.items():
            name = name.replace(theirs, ours)
        own[f"trunk.{name}"] = value
    own["head.proj.weight"] = own.pop("trunk.proj").T
    own["trunk.cls_token"] = own.pop("trunk.class_embedding")[None, None]
    own["trunk.pos_embed"] = own.pop("trunk.positional_embedding")[None]
    tower = ImageTower(config, 24)
    tower.load_state_dict(own)
    return tower.eval()


def after_last(tower: ImageTower, x: torch.Tensor, change) -> torch.Tensor:
    """Patch features [B, T, D] of tokens that enter the last block."""
    return tower.head(tower.without_prefix(tower.trunk.norm(change(tower.trunk.blocks[-1], x))))


@torch.no_grad()
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", THEIRS)
def test_features_are_the_authors(tower: ImageTower, fixture, name: str, size: str) -> None:
    grid = tuple(int(side) // 8 for side in size.split("x"))
    change = {
        "maskclip": value_path,
        "maskclip-reduced": last_block.reduced,
        "sclip": last_block.sclip,
        "clearclip": last_block.clearclip,
        "naclip": partial(last_block.naclip, grid=grid),
        "scra": last_block.scra,
        "tokens": lambda block, x: block(x),
    }[name]
    found = after_last(tower, torch.from_numpy(fixture[f"{size}/x_last_in"]), change)
    for one in THEIRS[name]:
        theirs = torch.from_numpy(fixture[f"{size}/{one}"])[:, -grid[0] * grid[1] :]  # some keep the class token
        torch.testing.assert_close(found, theirs, atol=1e-4, rtol=0)


@torch.no_grad()
def test_attention_of_scra_is_radsegs(tower: ImageTower, fixture) -> None:
    """Where the MLP adds nothing, a block is its input and the attention."""
    block = tower.trunk.blocks[-1]
    for parameter in block.mlp.fc2.parameters():
        parameter.zero_()
    for size in SIZES:
        x = torch.from_numpy(fixture[f"{size}/x_last_in"])
        attention = last_block.scra(block, x) - x
        torch.testing.assert_close(attention, torch.from_numpy(fixture[f"{size}/scra_attn"]), atol=1e-4, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("size", SIZES)
def test_proxyclip_is_its_authors_where_rows_are_rows(tower: ImageTower, fixture, size: str) -> None:
    """Theirs swaps height and width of the grid; the fixture has it called with them in their order, too."""
    grid = tuple(int(side) // 8 for side in size.split("x"))
    x = torch.from_numpy(fixture[f"{size}/x_last_in"])[:1, 1:]
    for name in (name for name in fixture if name.startswith(f"{size}/proxy_ex")):
        alike = torch.from_numpy(fixture[name]).permute(0, 2, 3, 1)
        found = last_block.proxyclip(tower.trunk.blocks[-1], x, grid, alike)
        features = tower.in_joint_space(tower.trunk.norm(found), alike.shape[1:3]).flatten(1, 2)
        theirs = torch.from_numpy(fixture[name.replace("proxy_ex", "proxyclip_rowmajor")])
        torch.testing.assert_close(features, theirs, atol=2e-4, rtol=0)


@torch.no_grad()
def test_a_second_encoder_has_its_own_pixels_and_patches(tower: ImageTower) -> None:
    config = ImageTowerConfig(size=32, patch=16, width=32, depth=1, heads=2, mlp=64, pool="mean")
    other = Encoded(ImageTower(config, 32).eval(), 32)
    other.preprocess = Preprocess(32, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.1))
    model = Encoded(tower, 48, other)
    pixels = torch.randint(0, 256, (2, 3, 40, 64), dtype=torch.uint8)
    found = last_block.second_patches(model, model.preprocess.normalize(pixels))
    assert found.shape == (2, 2, 4, 32)  # 40 / 16 rounds to 2
    expected = F.interpolate(other.preprocess.normalize(pixels), (32, 64), mode="bilinear", align_corners=False)
    torch.testing.assert_close(found, other.visual.patches(expected), atol=1e-4, rtol=1e-4)
    assert last_block.FEATURES["proxyclip"](model, model.preprocess.normalize(pixels), "").shape == (2, 2, 4, 24)
    with pytest.raises(
        BadInput, match=r"clip has no second encoder, which tells how similar patches are; give eval\.second"
    ):
        last_block.FEATURES["proxyclip"](Encoded(tower, 48), torch.zeros(1, 3, 48, 48), "")


@torch.no_grad()
def test_whole_towers_are_the_authors_where_positions_need_no_resizing(tower: ImageTower, fixture) -> None:
    """At other sizes theirs resize positions by a factor of (n + 0.1) / sqrt(N), ours by the model's own rule."""
    images = torch.from_numpy(fixture["48x48/image"])
    for name in THEIRS.keys() & last_block.FEATURES.keys():
        found = last_block.FEATURES[name](Encoded(tower, 48), images, "").flatten(1, 2)
        expected = torch.from_numpy(fixture[f"48x48/{THEIRS[name][0]}"])[:, -36:]
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("size", SIZES)
def test_whole_towers_are_tcls_and_lposs_at_any_size(tower: ImageTower, fixture, size: str) -> None:
    """These two resize positions to the grid, as a tower does whose rule is `bicubic`."""
    tower.trunk.resample = "bicubic"
    images = torch.from_numpy(fixture[f"{size}/image"])
    found = last_block.FEATURES["maskclip"](Encoded(tower, 48), images, "")
    tcl = torch.from_numpy(fixture[f"{size}/tcl_maskclip"])[:, 1:]
    torch.testing.assert_close(found.flatten(1, 2), tcl, atol=1e-4, rtol=0)
    if size != "32x72":
        lposs = torch.from_numpy(fixture[f"{size}/lposs_maskclip"])
        torch.testing.assert_close(found.permute(0, 3, 1, 2), lposs, atol=1e-4, rtol=0)


@torch.no_grad()
def test_theirs_do_not_resize_positions_where_only_the_aspect_differs(tower: ImageTower, fixture) -> None:
    """32 x 72 pixels have 36 patches as 48 x 48 have, and four references leave the positions as they are."""
    images = torch.from_numpy(fixture["32x72/image"])
    found = last_block.FEATURES["sclip"](Encoded(tower, 48), images, "").flatten(1, 2)
    assert (found - torch.from_numpy(fixture["32x72/sclip"])[:, 1:]).abs().max() > 0.1


@torch.no_grad()
def test_theirs_resize_positions_by_a_factor_that_is_not_the_sides_ratio(tower: ImageTower, fixture) -> None:
    """SCLIP's family asks for (n + 0.1) / sqrt(N): tokens differ by more than our own tolerance, and not by much."""
    images = torch.from_numpy(fixture["64x64/image"])
    found = last_block.FEATURES["sclip"](Encoded(tower, 48), images, "").flatten(1, 2)
    apart = (found - torch.from_numpy(fixture["64x64/sclip"])[:, 1:]).abs().max()
    assert 0.01 < apart < 0.5


@torch.no_grad()
def test_proxyclip_swaps_rows_and_columns(tower: ImageTower, fixture) -> None:
    """As its authors call it, a grid of other sides is read the wrong way round; a square one is not."""
    for size in ("48x48", "32x72"):
        for name in (name for name in fixture if name.startswith(f"{size}/proxyclip_asis")):
            theirs, ours = (torch.from_numpy(fixture[one]) for one in (name, name.replace("asis", "rowmajor")))
            same = torch.allclose(theirs, ours, atol=2e-4)
            assert same == (size == "48x48"), name


@torch.no_grad()
@pytest.mark.parametrize("name", sorted(set(last_block.FEATURES) - {"proxyclip"}))
@pytest.mark.parametrize("pool", ["cls", "map", "mean"])
def test_an_image_does_not_depend_on_its_neighbours_in_a_batch(pool, name: str) -> None:
    torch.manual_seed(0)
    config = ImageTowerConfig(size=32, patch=8, width=32, depth=2, heads=2, mlp=64, pool=pool)
    model = Encoded(ImageTower(config, 32).eval(), 32)
    images = torch.randn(3, 3, 24, 40)
    together = last_block.FEATURES[name](model, images, "")
    assert together.shape == (3, 3, 5, 32)
    alone = torch.cat([last_block.FEATURES[name](model, image[None], "") for image in images])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("name", ["sclip", "clearclip", "naclip", "scra"])
def test_equal_tokens_stay_equal(name: str) -> None:
    """Rows of attention sum to 1 (SCLIP's to 2), so a constant map stays constant."""
    torch.manual_seed(1)
    config = ImageTowerConfig(size=32, patch=8, width=32, depth=1, heads=2, mlp=64, pool="mean")
    tower = ImageTower(config, 32)
    x = torch.randn(1, 1, 32).expand(1, 16, 32)
    change = partial(last_block.naclip, grid=(4, 4)) if name == "naclip" else getattr(last_block, name)
    found = change(tower.trunk.blocks[-1], x)
    assert (found - found[:, :1]).abs().max() < 1e-5
    if name == "clearclip":
        torch.testing.assert_close(found, last_block.reduced(tower.trunk.blocks[-1], x))


def test_correlations_keep_orthogonal_groups_apart() -> None:
    groups = torch.tensor([0, 1, 0, 1, 1])
    x = F.one_hot(groups, 4).double() * torch.tensor([3.0, 1.0, 2.0, 5.0, 1.0])[:, None]
    weights = last_block.sharpened(last_block.cosines(x), 10, 0.5)
    assert torch.equal(weights > 0, groups[:, None] == groups)
    torch.testing.assert_close(weights.sum(-1), torch.ones(5, dtype=torch.float64))


@pytest.mark.parametrize("size", SIZES)
def test_nearness_is_naclips(fixture, size: str) -> None:
    theirs = torch.from_numpy(fixture[f"{size}/gaussian_addition_std5"])
    found = last_block.nearness(*(int(side) // 8 for side in size.split("x")))
    torch.testing.assert_close(found, theirs[1:, 1:], atol=1e-3, rtol=0)  # stored in half precision
    assert not theirs[0].any()
    assert not theirs[:, 0].any()


def test_nearness_is_a_gaussian_of_patches() -> None:
    found = last_block.nearness(3, 4)
    for one in range(12):
        for other in range(12):
            d2 = (one // 4 - other // 4) ** 2 + (one % 4 - other % 4) ** 2
            assert found[one, other] == pytest.approx(np.exp(-d2 / 50), abs=1e-6)


def test_what_a_decoder_cannot_have_is_told(oracle, tower: ImageTower) -> None:
    with pytest.raises(BadInput, match=r"has no last block to change; use eval\.decoder cosine"):
        predictor_of(oracle, EvalConfig(decoder="sclip")).maps(torch.zeros(1, 3, 8, 8), torch.zeros(2, 4))
    with pytest.raises(BadInput, match=r"decoder sclip has a readout of its own; leave out eval\.readout"):
        predictor_of(Encoded(tower, 48), EvalConfig(decoder="sclip", readout="tokens"))
    assert set(last_block.FEATURES) < set(DECODERS)
    assert last_block.FEATURES["maskclip"].keywords["last_block"] is value_path
