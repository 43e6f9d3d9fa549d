"""Boxes against torchvision's RandomResizedCrop, pixels against Pillow's crop, draws against each other."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import RandomResizedCrop

from silc.data.config import CropConfig
from silc.data.crops import DRAWS, TRIES, MultiCrop, choose_box, min_sides
from silc.data.streams import stream
from silc.images import decode_pixels, to_rgb
from silc.preprocess import Preprocess
from tests.data.conftest import encoded, photo

CONFIG = CropConfig(num_global=2, num_local=3, local_size=12)


def multi_crop(config: CropConfig = CONFIG, original: bool = False) -> MultiCrop:
    return MultiCrop(config, size=24, original=original, preprocess=Preprocess(24))


@pytest.mark.parametrize("size", [(640, 480), (300, 900), (2100, 120)])
@pytest.mark.parametrize("area", [(0.4, 1.0), (0.05, 0.4)])
def test_boxes_are_distributed_as_torchvisions(size: tuple[int, int], area: tuple[float, float]) -> None:
    """Kolmogorov-Smirnov distance of area, aspect and place; 0.035 is a chance of 1e-4 at 8,000 draws."""
    num, aspect = 8000, (3 / 4, 4 / 3)
    rng = np.random.default_rng(0)
    boxes = np.array([choose_box(draws, size, area, aspect) for draws in rng.random((num, DRAWS)).tolist()])
    assert (boxes >= 0).all()
    assert (boxes[:, [0, 2]] <= size[0]).all()
    assert (boxes[:, [1, 3]] <= size[1]).all()
    ours = np.stack([boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1], boxes[:, 0], boxes[:, 1]]).astype(float)
    blank = torch.empty(3, size[1], size[0], dtype=torch.uint8)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        peers = np.array([RandomResizedCrop.get_params(blank, list(area), list(aspect)) for _ in range(num)])
    top, left, height, width = peers.T
    theirs = np.stack([width, height, left, top]).astype(float)
    # Both round to pixels; a little noise takes the steps out of both.
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


@pytest.mark.parametrize("size", [(1000, 10), (10, 1000), (997, 31), (3, 100)])
def test_a_box_that_never_fits_is_torchvisions(size: tuple[int, int]) -> None:
    """The largest of an allowed aspect, centred."""
    box = choose_box([0.5] * DRAWS, size, (0.9, 1.0), (3 / 4, 4 / 3))
    blank = torch.empty(3, size[1], size[0], dtype=torch.uint8)
    top, left, height, width = RandomResizedCrop.get_params(blank, [0.9, 1.0], [3 / 4, 4 / 3])
    assert box == (left, top, left + width, top + height)


def test_shapes_and_absent_views() -> None:
    image = photo(0, (60, 40))
    original, global_views, local_views = multi_crop(original=True)(np.array(image), (0, 0, 0))
    assert original is not None
    assert global_views is not None
    assert local_views is not None
    assert original.shape == (3, 24, 24)
    assert global_views.shape == (2, 3, 24, 24)
    assert local_views.shape == (3, 3, 12, 12)
    assert {original.dtype, global_views.dtype, local_views.dtype} == {torch.uint8}
    assert torch.equal(original, Preprocess(24)(image))  # never mirrored
    assert multi_crop(replace(CONFIG, num_global=0, num_local=0))(np.array(image), (0, 0, 0)) == (None, None, None)


@pytest.mark.parametrize("size", [(512, 384), (301, 207), (90, 41), (20, 20), (5, 3)])
@pytest.mark.parametrize("mode", ["RGB", "L", "P", "CMYK"])
def test_pixels_are_pillows_own_crop(size: tuple[int, int], mode: str) -> None:
    """Pillow's bicubic of the same box, mirrored where the draw says so: equal but for a level or two in some
    hundred values, as torch keeps weights in fewer bits. Shrunk and enlarged, odd sizes, other kinds of image."""
    image = to_rgb(photo(0, size).convert(mode))
    config = CropConfig(num_global=2, num_local=5, local_size=17)
    made = MultiCrop(config, size=64, original=False, preprocess=Preprocess(64))(np.array(image), (1, 2, 3))
    mirrored = []
    for name, views, area in zip(("global", "local"), made[1:], (config.global_area, config.local_area), strict=True):
        assert views is not None
        for view, draws in zip(views, stream(name, 1, 2, 3).random((len(views), DRAWS)).tolist(), strict=True):
            box = choose_box(draws, size, area, config.aspect)
            plain = image.crop(box).resize(view.shape[:0:-1], Image.Resampling.BICUBIC)
            mirrored.append(draws[-1] < 0.5)
            if mirrored[-1]:
                plain = plain.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
            difference = np.abs(view.permute(1, 2, 0).numpy().astype(int) - np.asarray(plain))
            assert difference.max() <= 2
            assert difference.mean() < 0.04
    assert {True, False} == set(mirrored)


def test_flip_is_a_switch() -> None:
    image, config = (
        np.array(photo(0, (40, 40))),
        CropConfig(num_global=8, global_area=(1, 1), aspect=(1, 1), num_local=0),
    )
    _, views, _ = multi_crop(config)(image, (0, 0, 0))
    _, unflipped, _ = multi_crop(replace(config, flip=False))(image, (0, 0, 0))
    assert views is not None
    assert unflipped is not None
    assert all(torch.equal(view, unflipped[0]) for view in unflipped)
    assert {torch.equal(view, unflipped[0]) for view in views} == {True, False}
    assert all(torch.equal(view, unflipped[0]) or torch.equal(view.flip(-1), unflipped[0]) for view in views)


def test_a_view_depends_on_its_turn_and_number_only() -> None:
    image = np.array(photo(0, (60, 40)))
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
    for visit in ((4, 1, 4), (3, 2, 4), (3, 1, 5)):
        _, other, _ = multi_crop()(image, visit)
        assert other is not None
        assert not torch.equal(other, global_views)


@pytest.mark.parametrize("size", [(1, 1), (1, 500), (500, 1), (2, 3)])
def test_the_smallest_images_have_views(size: tuple[int, int]) -> None:
    for visit in range(20):
        _, _, local_views = multi_crop()(np.full((*size[::-1], 3), (10, 200, 30), np.uint8), (0, 0, visit))
        assert local_views is not None
        assert (local_views == torch.tensor([10, 200, 30]).view(3, 1, 1)).all()


# --- images decoded at a smaller scale --------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(640, 480), (300, 900), (2100, 120), (1000, 10), (7, 3), (1, 1)])
@pytest.mark.parametrize("area", [(0.4, 1.0), (0.05, 0.4), (0.9, 1.0)])
def test_no_box_is_smaller_than_the_least(size: tuple[int, int], area: tuple[float, float]) -> None:
    """And of images of a usual shape one can come to it."""
    aspect = (3 / 4, 4 / 3)
    draws = np.random.default_rng(0).random((3000, DRAWS))
    corners = [[0.0, shape, 0.5, 0.5] * TRIES + [0.5] for shape in (0.0, 1.0)]
    boxes = np.array([choose_box(row, size, area, aspect) for row in [*draws.tolist(), *corners]])
    sides = (boxes[:, 2:] - boxes[:, :2]).min(axis=0)
    assert (sides >= min_sides(size, area, aspect)).all()
    if size == (640, 480) and area[0] < 0.5:
        assert tuple(sides) == min_sides(size, area, aspect)


def default(**changes: object) -> MultiCrop:
    settings = {"size": 256, "original": False, "preprocess": Preprocess(256)}
    return MultiCrop(CropConfig(), **{**settings, **changes})


@pytest.mark.parametrize(
    ("size", "decoded"),
    [
        ((512, 384), (512, 384)),
        ((1024, 768), (1024, 768)),
        ((1632, 1224), (816, 612)),  # 2 megapixels
        ((2000, 1500), (1000, 750)),
        ((4000, 3000), (1000, 750)),
        ((4001, 3003), (1001, 751)),
        ((8000, 6000), (1000, 750)),
        ((8000, 300), (8000, 300)),
    ],
)
def test_scales_that_suffice(size: tuple[int, int], decoded: tuple[int, int]) -> None:
    scales = [(-(-size[0] // divisor), -(-size[1] // divisor)) for divisor in (8, 4, 2)]
    assert next((scale for scale in scales if default().suffices(*scale)), size) == decoded


def test_each_kind_of_view_has_its_say() -> None:
    """What is not drawn asks for nothing; the original asks for what its own resize does."""
    only_locals, only_globals = CropConfig(num_global=0), CropConfig(num_local=0)
    crops = [
        MultiCrop(config, size=256, original=False, preprocess=Preprocess(256))
        for config in (only_locals, only_globals)
    ]
    assert [crop.suffices(700, 525) for crop in crops] == [True, True]
    assert [crop.suffices(560, 420) for crop in crops] == [False, True]
    assert [crop.suffices(500, 375) for crop in crops] == [False, False]
    assert not MultiCrop(only_globals, size=480, original=False, preprocess=Preprocess(480)).suffices(700, 525)
    none = CropConfig(num_global=0, num_local=0)
    for resize, least in (("squash", 100), ("crop", 100), ("squash_crop", 114)):
        views = MultiCrop(none, size=100, original=True, preprocess=Preprocess(100, resize=resize))
        assert views.suffices(least, least + 50)
        assert not views.suffices(least - 1, 500)
        assert not views.suffices(500, least - 1)


def test_views_of_a_smaller_scale_are_nearly_those_of_the_whole() -> None:
    """Boxes fall on the smaller image's pixels, so only the whole image is the same box. The difference on average is
    far below that to a picture of another visit."""
    whole = replace(CONFIG, global_area=(1, 1), local_area=(1, 1), aspect=(1, 1), flip=False)
    smooth = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8))
    data = encoded(smooth.resize((400, 400), Image.Resampling.BICUBIC), quality=92)
    crops = multi_crop(whole, original=True)
    full, reduced = decode_pixels(data), decode_pixels(data, suffices=crops.suffices)
    assert reduced.shape == (50, 50, 3)
    for view, other in zip(crops(full, (0, 0, 0)), crops(reduced, (0, 0, 0)), strict=True):
        assert view is not None
        assert other is not None
        difference = (view.int() - other.int()).abs()
        assert 0 < difference.float().mean() < 2
        assert difference.max() < 24


@pytest.mark.parametrize("size", [(640, 480), (333, 777), (1500, 90)])
def test_no_view_is_enlarged_by_a_smaller_scale(size: tuple[int, int]) -> None:
    crops, config = multi_crop(original=True), CONFIG
    reduced = decode_pixels(encoded(photo(0, size)), suffices=crops.suffices)
    height, width, _ = reduced.shape
    assert (width, height) != size
    assert min(width, height) >= 24
    for draws in np.random.default_rng(0).random((2000, DRAWS)).tolist():
        for side, area in ((24, config.global_area), (12, config.local_area)):
            left, top, right, bottom = choose_box(draws, (width, height), area, config.aspect)
            assert min(right - left, bottom - top) >= side
