"""SC-CLIP's pieces against scikit-learn and loops; its whole against a composition written out for one image."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.neighbors import LocalOutlierFactor

from silc.eval import scclip
from silc.models.config import ImageTowerConfig
from silc.models.image import ImageTower
from tests.eval.conftest import Encoded


def tower_of(pool, depth: int = 12) -> ImageTower:
    torch.manual_seed(0)
    return ImageTower(ImageTowerConfig(size=64, patch=8, width=32, depth=depth, heads=2, mlp=64, pool=pool), 32).eval()


@pytest.mark.parametrize(("tokens", "width"), [(64, 8), (100, 3)])
def test_outliers_are_scikit_learns(tokens: int, width: int) -> None:
    x = torch.randn(tokens, width, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    x[7] += 20
    theirs = LocalOutlierFactor(n_neighbors=30, metric="sqeuclidean").fit(x.numpy())
    factor = -theirs.negative_outlier_factor_
    assert np.array_equal(scclip.outliers(x).numpy(), factor > np.quantile(factor, 0.95))
    assert scclip.outliers(x)[7]
    assert not scclip.outliers(x[:1]).any()
    assert scclip.outliers(torch.zeros(20, 4)).sum() == 0  # all alike


def test_outlying_tokens_become_the_mean_of_their_neighbours() -> None:
    x = torch.randn(1, 20, 3)
    which = torch.zeros(1, 20, dtype=torch.bool)
    which[0, [0, 1, 7, 19]] = True
    found = scclip.replaced(x, which, (4, 5))
    for place in range(20):
        row, column = divmod(place, 5)
        around = [
            5 * y + z
            for y in range(max(0, row - 1), min(4, row + 2))
            for z in range(max(0, column - 1), min(5, column + 2))
            if not which[0, 5 * y + z]
        ]
        expected = x[0, around].mean(0) if which[0, place] else x[0, place]
        torch.testing.assert_close(found[0, place], expected)
    everywhere = torch.ones(1, 20, dtype=torch.bool)
    assert torch.equal(scclip.replaced(x, everywhere, (4, 5)), x)  # nobody is left to take a mean of


@torch.no_grad()
@pytest.mark.parametrize("pool", ["cls", "map", "mean"])
def test_the_whole_is_what_the_paper_describes(pool) -> None:
    tower = tower_of(pool)
    image = torch.randn(1, 3, 64, 48)
    left = tower.trunk.tokens(image, layers=range(12)).layers
    prefix = tower.trunk.num_prefix_tokens
    block, grid = tower.trunk.blocks[-1], (8, 6)
    out = scclip.outliers(left[10][0, prefix:])[None]

    def unit(x):
        return F.normalize(x, dim=-1)

    def gather(x, similarity):
        weights = torch.where(similarity < 0.4, 0, similarity)
        return (weights / weights.sum(-1, keepdim=True)) @ x

    mid = unit(scclip.replaced(left[8][:, prefix:], out, grid)[0])
    similarity, early = mid @ mid.T, unit(left[3][0, prefix:])

    def last(x, cls):
        y = block.norm1(x)
        qkv = y @ block.attn.qkv.weight.T + block.attn.qkv.bias
        heads = []
        for head in range(2):
            k, v = (qkv[:, 32 * part + 16 * head : 32 * part + 16 * head + 16] for part in (1, 2))
            sharp = 3 * (similarity - similarity.mean())
            sharp = sharp.masked_fill(sharp < 0, -torch.inf).softmax(-1)
            heads.append((sharp + (k @ k.T / 4).softmax(-1)) / 2 @ v)
        return torch.cat(heads, -1) @ block.attn.proj.weight.T + block.attn.proj.bias + 0.3 * cls

    def cls(x):
        return x[0, :1] if prefix else 0

    first = last(gather(scclip.replaced(left[10][:, prefix:], out, grid)[0], similarity), cls(left[10]))
    summed = sum(left[3:10])
    second = last(summed[0, prefix:], cls(summed))
    total = gather(first, early @ early.T) + gather(second, early @ early.T)
    expected = tower.in_joint_space(tower.trunk.norm(total)[None], grid)
    torch.testing.assert_close(scclip.features(Encoded(tower, 64), image, ""), expected, atol=1e-4, rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("depth", [1, 3, 24])
def test_any_depth_and_no_image_depends_on_another(depth: int) -> None:
    model = Encoded(tower_of("cls", depth), 64)
    images = torch.cat([torch.randn(2, 3, 24, 40), torch.zeros(1, 3, 24, 40)])
    together = scclip.features(model, images, "")
    assert together.shape == (3, 3, 5, 32)
    assert together.isfinite().all()
    alone = torch.cat([scclip.features(model, image[None], "") for image in images])
    torch.testing.assert_close(together, alone, atol=1e-4, rtol=1e-4)
