"""Crops of an image and its label map: what is drawn is drawn for both."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from silc.heads.augment import PADDING, augmented, recoloured

IGNORE = 255


def painted(height: int, width: int) -> tuple[Image.Image, np.ndarray]:
    """An image whose red and green say which of 8 x 8 cells a pixel is of, and its label map, which says so too."""
    rows, columns = np.arange(height) * 8 // height, np.arange(width) * 8 // width
    truth = (8 * rows[:, None] + columns).astype(np.int64)
    pixels = np.stack([truth // 8 * 30, truth % 8 * 30, 0 * truth], axis=-1).astype(np.uint8)
    return Image.fromarray(pixels), truth


@pytest.mark.parametrize(("height", "width"), [(64, 64), (64, 96), (150, 40)])
def test_image_and_map_stay_together(height: int, width: int) -> None:
    """Within a cell the label is what the colour says; at borders the colour is mixed."""
    image, truth = painted(height, width)
    flipped, places = set(), set()
    for seed in range(12):
        crop = augmented(image, truth, 64, IGNORE, np.random.default_rng(seed), colours=False)
        assert (crop.pixels.shape, crop.pixels.dtype) == ((3, 64, 64), torch.uint8)
        assert (crop.truth.shape, crop.truth.dtype) == ((64, 64), torch.int32)
        told = (crop.pixels[0].double() / 30).round() * 8 + (crop.pixels[1].double() / 30).round()
        assert (told == crop.truth).double().mean() > 0.8
        flipped.add(bool(crop.truth[0, 0] % 8 > crop.truth[0, -1] % 8))
        places.add(crop.pixels.numpy().tobytes())
    assert flipped == {True, False}
    assert len(places) > 2 or (height, width) == (64, 64)


def test_a_draw_is_repeated_by_its_seed_and_colours_change_no_other() -> None:
    image, truth = painted(80, 120)
    one, again, grey = (
        augmented(image, truth, 32, IGNORE, np.random.default_rng(3), colours=colours)
        for colours in (True, True, False)
    )
    assert torch.equal(one.pixels, again.pixels)
    assert not torch.equal(one.pixels, grey.pixels)
    for seed in range(8):
        one, grey = (augmented(image, truth, 32, IGNORE, np.random.default_rng(seed), colours=c) for c in (True, False))
        assert torch.equal(one.truth, grey.truth)


def test_an_image_too_long_for_the_crop_is_filled_up() -> None:
    """Of 10 x 200 pixels, at most 20/3 crops long, 10.7 are left of 32."""
    image, truth = painted(10, 200)
    crop = augmented(image, truth, 32, IGNORE, np.random.default_rng(0), colours=False)
    assert (crop.truth[11:] == IGNORE).all()
    assert (crop.pixels[:, 11:] == PADDING).all()
    assert (crop.truth[:11] != IGNORE).all()


def test_colours_are_changed_as_ssd_changes_them() -> None:
    """Each of the four half the time; grey has no hue and stays grey."""
    pixels = np.full((4, 4, 3), (200, 100, 50), np.uint8)
    changed = [recoloured(pixels, np.random.default_rng(seed)) for seed in range(200)]
    same = np.mean([np.array_equal(one, pixels) for one in changed])
    assert 0.02 < same < 0.12  # 1/16
    grey = np.full((4, 4, 3), 120, np.uint8)
    for seed in range(20):
        one = recoloured(grey, np.random.default_rng(seed)).astype(int)
        assert np.ptp(one, axis=-1).max() <= 1
        assert 120 * 0.5 - 33 <= one.min() <= one.max() <= 120 * 1.5 + 33
