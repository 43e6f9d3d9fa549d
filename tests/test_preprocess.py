"""Resize rules against torchvision, and the filters that do not antialias."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torchvision.transforms import v2

from silc.preprocess import Preprocess, resample, to_uint8


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
