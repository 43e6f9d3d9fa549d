"""Masked views: what is masked is masked, what is not is the tower's own, for every pooling."""

from __future__ import annotations

import pytest
import torch

from silc.models.config import HeadConfig, ImageTowerConfig
from silc.models.head import PatchHead, draw_masks, embedding_and_patches, gather_tokens
from silc.models.image import ImageTower


def tower(pool: str, depth: int = 2) -> ImageTower:
    config = ImageTowerConfig(size=32, patch=8, width=24, depth=depth, heads=2, mlp=40, pool=pool)  # type: ignore[arg-type]
    return ImageTower(config, 24).eval()


@pytest.mark.parametrize("pool", ["map", "cls", "mean"])
def test_one_pass_gives_embedding_and_patches(pool: str) -> None:
    own, images = tower(pool), torch.randn(3, 3, 32, 32)
    embedding, patches = embedding_and_patches(own, images)
    torch.testing.assert_close(embedding, own(images))
    assert patches.shape == (3, 16, 24)
    torch.testing.assert_close(patches, own.trunk.tokens(images).final[:, own.trunk.num_prefix_tokens :])


@pytest.mark.parametrize("pool", ["map", "cls", "mean"])
@pytest.mark.parametrize("size", [32, 48])
def test_hidden_patches_are_not_seen_and_others_are_as_ever(pool: str, size: int) -> None:
    """Pixels under the mask change nothing; a mask token equal to a patch's own embedding changes nothing either."""
    own, head = tower(pool), PatchHead(HeadConfig(16, 8, 10), 24)
    images = torch.randn(2, 3, size, size)
    masked = torch.tensor([[0, 5], [3, 14]])
    tokens = head.masked_tokens(own, images, masked)
    side = size // 8
    assert tokens.shape == (2, side**2, 24)
    other = images.clone()
    for image, places in enumerate(masked.tolist()):
        for place in places:
            top, left = 8 * (place // side), 8 * (place % side)
            other[image, :, top : top + 8, left : left + 8] = torch.randn(3, 8, 8)
    torch.testing.assert_close(head.masked_tokens(own, other, masked), tokens)
    assert not torch.allclose(head.masked_tokens(own, other + 0.1, masked), tokens)

    plain = torch.zeros(1, 3, size, size)  # every patch has the same embedding
    with torch.no_grad():
        head.mask_token.copy_(own.trunk.patch_embed(plain)[0, 0, 0])
    torch.testing.assert_close(head.masked_tokens(own, plain, masked[:1]), embedding_and_patches(own, plain)[1])


def test_draw() -> None:
    """M different places each, all of them in time, and never all or none."""
    masked = draw_masks((50, 4), 16, 0.5, torch.device("cpu"))
    assert masked.shape == (50, 4, 8)
    assert all(len(set(row)) == 8 for row in masked.flatten(0, 1).tolist())
    counts = torch.bincount(masked.flatten(), minlength=16)
    assert counts.sum() == 1600
    assert counts.min() > 60
    assert draw_masks((1,), 4, 0.01, torch.device("cpu")).shape == (1, 1)


def test_at() -> None:
    tokens = torch.arange(12.0).view(2, 3, 2)
    assert gather_tokens(tokens, torch.tensor([[2], [0]])).tolist() == [[[4, 5]], [[6, 7]]]
