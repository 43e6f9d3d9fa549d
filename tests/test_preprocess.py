"""Resize rules against torchvision, the filters that do not antialias, and the memory that thin images take."""

from __future__ import annotations

import subprocess
import sys
from typing import get_args

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torchvision.transforms import v2

from silc import preprocess
from silc.preprocess import Preprocess, Region, bilinear, neighbours, resample, to_uint8


def picture(width: int, height: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


@pytest.mark.parametrize("size", [(50, 37), (37, 50), (64, 64), (20, 91), (33, 17)])
@pytest.mark.parametrize("side", [16, 33])
def test_crop_is_clips(size, side):
    theirs = v2.Compose([v2.Resize(side, v2.InterpolationMode.BICUBIC), v2.CenterCrop(side)])
    ours = Preprocess(side, resize="crop")(picture(*size))
    assert torch.equal(ours, to_uint8(theirs(picture(*size))))


def test_squash_crop_is_big_visions():
    image = picture(50, 37)
    enlarged = to_uint8(image.resize((73, 73), Image.Resampling.BICUBIC))  # int(64 / 0.875)
    assert torch.equal(Preprocess(64, resize="squash_crop")(image), enlarged[:, 4:68, 4:68])


def test_filters_without_antialias_round_as_their_owners_do():
    image = picture(40, 30)
    values = F.interpolate(to_uint8(image)[None].float(), (9, 11), mode="bilinear", align_corners=False)[0]
    assert torch.equal(resample(image, 11, 9, "tf_bilinear"), values.floor().to(torch.uint8))
    assert torch.equal(resample(image, 11, 9, "cv2_bilinear"), values.round().to(torch.uint8))
    assert not torch.equal(resample(image, 11, 9, "bilinear"), values.round().to(torch.uint8))


def test_normalize_does_not_mind_how_views_lie_in_memory():
    """Crops come with their channels last; what a tower gets is planes."""
    pixels = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (2, 5, 8, 6, 3), dtype=np.uint8)).movedim(-1, 2)
    ours = Preprocess(8, mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7)).normalize(pixels)
    assert ours.is_contiguous()
    mean, std = np.array((0.1, 0.2, 0.3))[:, None, None], np.array((0.5, 0.6, 0.7))[:, None, None]
    expected = (pixels.numpy().astype(np.float64) / 255 - mean) / std
    np.testing.assert_allclose(ours.numpy(), expected, rtol=0, atol=1e-6)


FILTERS = ("bilinear", "bicubic", "tf_bilinear", "cv2_bilinear")


@pytest.mark.parametrize("size", [(300, 2), (1, 200), (301, 7), (64, 50), (90, 131)])
@pytest.mark.parametrize("interpolation", FILTERS)
def test_tiles_are_those_of_the_whole(size, interpolation, monkeypatch):
    """Pillow's and torch's own resize of the whole, cut afterwards, but for the last of 8 bits of a few values."""
    image = picture(*size)
    for rule in get_args(preprocess.Resize):
        ours = Preprocess(32, resize=rule, interpolation=interpolation)
        monkeypatch.setattr(preprocess, "AT_ONCE", 2**24)
        whole = ours(image)
        monkeypatch.setattr(preprocess, "AT_ONCE", 2**9)
        monkeypatch.setattr(preprocess, "_resized", lambda *_: pytest.fail("resized as a whole"))
        off = (ours(image).int() - whole.int()).abs()
        monkeypatch.undo()
        assert off.max() <= 1
        assert off.float().mean() < 0.02


@pytest.mark.parametrize(("width", "height"), [(8000, 1), (1, 20_000), (60_000, 3), (2, 41_001), (3, 9_999)])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_a_thin_images_centre_is_torchvisions(width, height, interpolation):
    """Of the image's middle alone, which holds all that the filter sees: torchvision has no memory for the whole."""
    image, middle = picture(width, height), 45 if max(width, height) % 2 else 42
    left, top = (max(0, (side - middle) // 2) for side in image.size)
    cut = image.crop((left, top, left + min(width, middle), top + min(height, middle)))
    mode = getattr(v2.InterpolationMode, interpolation.upper())
    theirs = to_uint8(v2.Compose([v2.Resize(224, mode), v2.CenterCrop(224)])(cut)).int()
    for rule in ("crop", "crop_floor"):
        ours = Preprocess(224, resize=rule, interpolation=interpolation)(image).int()
        assert ours.shape == (3, 224, 224)
        assert (ours - theirs).abs().max() <= 1


@pytest.mark.parametrize("region", [Region(0, 0, 5, 9), Region(30, 3, 77, 40), Region(100, 41, 101, 42)])
@pytest.mark.parametrize("interpolation", FILTERS)
def test_a_part_is_cut_out_of_the_whole(region, interpolation):
    image = picture(57, 33)
    whole = resample(image, 101, 42, interpolation)
    left, top, right, bottom = region
    assert torch.equal(resample(image, 101, 42, interpolation, region), whole[:, top:bottom, left:right])


@pytest.mark.parametrize(
    ("size", "scaled"), [((28, 28), (448, 448)), ((37, 50), (7, 9)), ((9, 5), (9, 700)), ((1, 3), (5, 1))]
)
def test_some_rows_and_columns_are_those_of_interpolate(size, scaled):
    x = torch.randn(2, *size)
    whole = F.interpolate(x[None], scaled, mode="bilinear", align_corners=False)[0]
    rows, columns = torch.arange(scaled[0])[::2], torch.tensor([0, scaled[1] - 1, scaled[1] // 2])
    ours = bilinear(x, neighbours(size[0], scaled[0], rows), neighbours(size[1], scaled[1], columns))
    torch.testing.assert_close(ours, whole[:, rows][..., columns], rtol=0, atol=1e-6)


THIN = """
import resource, sys
from PIL import Image
from silc.preprocess import Preprocess
Image.MAX_IMAGE_PIXELS = None
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for size in ((8000, 1), (1, 65_000), (500_000, 2), (9_000, 7_000)):
    image = Image.new("RGB", size, (9, 99, 200))
    for rule in ("squash", "crop"):
        for filter in ("bilinear", "bicubic", "tf_bilinear", "cv2_bilinear"):
            pixels = Preprocess(224, resize=rule, interpolation=filter)(image)
            assert (pixels.float().mean((1, 2)) - pixels.new_tensor([9, 99, 200])).abs().max() <= 1
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / (1e6 if sys.platform == "darwin" else 1e3))
"""


@pytest.mark.slow
def test_no_shape_takes_much_memory():
    """Megabytes beyond what torch takes; the last image itself has 252. One of them alone took 10 GB."""
    done = subprocess.run([sys.executable, "-c", THIN], capture_output=True, text=True, check=True, timeout=300)
    assert float(done.stdout) < 700
