"""Boxes against torchvision's RandomResizedCrop, pixels against Pillow's crop, draws against each other."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import RandomResizedCrop

from silc.data.config import CropConfig
from silc.data.crops import MultiCrop, draw_box
from silc.preprocess import Preprocess
from tests.data.conftest import photo

CONFIG = CropConfig(num_global=2, num_local=3, local_size=12)


def multi_crop(config: CropConfig = CONFIG, original: bool = False) -> MultiCrop:
    return MultiCrop(config, size=24, original=original, preprocess=Preprocess(24))


@pytest.mark.parametrize("size", [(640, 480), (300, 900), (2100, 120)])
@pytest.mark.parametrize("area", [(0.4, 1.0), (0.05, 0.4)])
def test_boxes_are_distributed_as_torchvisions(size: tuple[int, int], area: tuple[float, float]) -> None:
    """Kolmogorov-Smirnov distance of area, aspect and place; 0.035 is a chance of 1e-4 at 8,000 draws."""
    num, aspect = 8000, (3 / 4, 4 / 3)
    rng = np.random.default_rng(0)
    boxes = np.array([draw_box(rng, size, area, aspect) for _ in range(num)])
    assert (boxes >= 0).all()
    assert (boxes[:, [0, 2]] <= size[0]).all()
    assert (boxes[:, [1, 3]] <= size[1]).all()
    ours = np.stack([boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1], boxes[:, 0], boxes[:, 1]])
    blank = torch.empty(3, size[1], size[0], dtype=torch.uint8)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        peers = np.array([RandomResizedCrop.get_params(blank, list(area), list(aspect)) for _ in range(num)])
    top, left, height, width = peers.T
    theirs = np.stack([width, height, left, top]).astype(float)
    # Torchvision rounds to pixels; a little noise takes the steps out of both. (The centred boxes are whole here.)
    theirs += rng.uniform(-0.5, 0.5, theirs.shape)
    ours += rng.uniform(-0.5, 0.5, ours.shape)
    for a, b in zip(
        (*ours, ours[0] * ours[1], ours[0] / ours[1]),
        (*theirs, theirs[0] * theirs[1], theirs[0] / theirs[1]),
        strict=True,
    ):
        grid = np.sort(np.concatenate([a, b]))
        distance = np.abs(np.searchsorted(np.sort(a), grid) - np.searchsorted(np.sort(b), grid)).max() / num
        assert distance < 0.035


def test_a_box_that_never_fits_is_centred() -> None:
    left, top, right, bottom = draw_box(np.random.default_rng(0), (1000, 10), (0.9, 1.0), (3 / 4, 4 / 3))
    assert (top, bottom) == (0, 10)
    assert math.isclose(right - left, 40 / 3)
    assert math.isclose(left + right, 1000)
    left, top, right, bottom = draw_box(np.random.default_rng(0), (10, 1000), (0.9, 1.0), (3 / 4, 4 / 3))
    assert (left, right) == (0, 10)
    assert math.isclose(bottom - top, 40 / 3)
    assert math.isclose(top + bottom, 1000)


def test_shapes_and_absent_views() -> None:
    image = photo(0, (60, 40))
    original, global_views, local_views = multi_crop(original=True)(image, (0, 0, 0))
    assert original is not None
    assert global_views is not None
    assert local_views is not None
    assert original.shape == (3, 24, 24)
    assert global_views.shape == (2, 3, 24, 24)
    assert local_views.shape == (3, 3, 12, 12)
    assert {original.dtype, global_views.dtype, local_views.dtype} == {torch.uint8}
    assert torch.equal(original, Preprocess(24)(image))  # never mirrored
    assert multi_crop(replace(CONFIG, num_global=0, num_local=0))(image, (0, 0, 0)) == (None, None, None)


def test_pixels_are_pillows_own_crop() -> None:
    """The whole area at the image's own aspect leaves one box, so a view is the resized image or its mirror."""
    image, config = photo(0, (40, 40)), CropConfig(num_global=8, global_area=(1, 1), aspect=(1, 1), num_local=0)
    _, views, _ = multi_crop(config)(image, (0, 0, 0))
    plain = torch.from_numpy(np.array(image.resize((24, 24), Image.Resampling.BICUBIC))).permute(2, 0, 1)
    assert views is not None
    mirrored = [torch.equal(view, plain.flip(-1)) for view in views]
    assert all(flip or torch.equal(view, plain) for flip, view in zip(mirrored, views, strict=True))
    assert any(mirrored)
    assert not all(mirrored)
    _, unflipped, _ = multi_crop(replace(config, flip=False))(image, (0, 0, 0))
    assert unflipped is not None
    assert all(torch.equal(view, plain) for view in unflipped)


def test_a_view_depends_on_its_turn_and_number_only() -> None:
    image = photo(0, (60, 40))
    _, global_views, local_views = multi_crop()(image, (3, 1, 4))
    more = replace(CONFIG, num_global=4, num_local=9)
    _, more_global, more_local = multi_crop(more, original=True)(image, (3, 1, 4))
    assert global_views is not None
    assert local_views is not None
    assert more_global is not None
    assert more_local is not None
    assert torch.equal(global_views, more_global[:2])
    assert torch.equal(local_views, more_local[:3])
    assert not torch.equal(more_global[0], more_global[1])
    for turn in ((4, 1, 4), (3, 2, 4), (3, 1, 5)):
        _, other, _ = multi_crop()(image, turn)
        assert other is not None
        assert not torch.equal(other, global_views)


@pytest.mark.parametrize("size", [(1, 1), (1, 500), (500, 1), (2, 3)])
def test_the_smallest_images_have_views(size: tuple[int, int]) -> None:
    for turn in range(20):
        _, _, local_views = multi_crop()(Image.new("RGB", size, (10, 200, 30)), (0, 0, turn))
        assert local_views is not None
        assert (local_views == torch.tensor([10, 200, 30]).view(3, 1, 1)).all()
