"""Images as people hold them become RGB images, or one line says which are taken."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from silc.errors import BadInput
from silc.inputs import each_of, in_batches, open_image

PIXELS = np.random.default_rng(0).integers(0, 256, (4, 5, 3), dtype=np.uint8)
CHANNELS_FIRST = torch.from_numpy(PIXELS.transpose(2, 0, 1).copy())


@pytest.mark.parametrize(
    "image",
    [
        PIXELS,
        PIXELS / 255,
        (PIXELS / 255).astype(np.float32),
        PIXELS[:, ::-1][:, ::-1],
        CHANNELS_FIRST,
        CHANNELS_FIRST / 255,
        CHANNELS_FIRST.double() / 255,
        (CHANNELS_FIRST / 255).requires_grad_(),
        Image.fromarray(PIXELS),
    ],
)
def test_each_kind_gives_the_pixels_it_holds(image: object) -> None:
    opened = open_image(image)  # type: ignore[arg-type]
    assert opened.mode == "RGB"
    assert np.array_equal(np.asarray(opened), PIXELS)


def test_floats_are_rounded() -> None:
    """0.5 is 127.5, to even 128; half precision is taken."""
    for half in (np.full((2, 2, 3), 0.5, np.float16), torch.full((3, 2, 2), 0.5, dtype=torch.bfloat16)):
        assert np.unique(open_image(half)).tolist() == [128]


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (PIXELS.astype(np.float32), r"float from 0 \(black\) to 1 \(white\); this one goes from 4 to 248: scale it"),
        (CHANNELS_FIRST / 127.5 - 1, r"a tensor \[3, H, W\], uint8, or float .* goes from -0\.9686 to 0\.9451"),
        (np.full((2, 2, 3), np.nan), "goes from nan to nan"),
        (PIXELS.astype(np.int64), "this one is int64: convert it"),
        (PIXELS > 9, "this one is bool"),
        (PIXELS.transpose(2, 0, 1), r"an array \[H, W, 3\].*this one is \[3, 4, 5\]: move the channels"),
        (CHANNELS_FIRST.permute(1, 2, 0), r"a tensor \[3, H, W\].*this one is \[4, 5, 3\]: move the channels"),
        (PIXELS[..., 0], r"this one is \[4, 5\]"),
        (PIXELS[:0], r"this one is \[0, 5, 3\]"),
        (b"\xff\xd8", r"not bytes; PIL.Image.open\(io.BytesIO\(data\)\)"),
        (bytearray(b"x"), "not bytearray"),
        (None, "not NoneType"),
        ({"image": PIXELS}, "not dict"),
        ("https://example.org/a.jpg", "https://example.org/a.jpg is an address; download the image first"),
        (3, "not int"),
        (torch.zeros(3, 4, 4).to_sparse(), "a dense tensor"),
        (torch.zeros(3, 4, 4, device="meta"), "a dense tensor"),
        (Image.new("RGB", (0, 5)), "an image of 0 x 5 pixels holds nothing"),
        (Image.new("L", (7, 0)), "an image of 7 x 0 pixels"),
        (Image.Image(), "an image of 0 x 0 pixels"),
    ],
)
def test_what_is_no_image_is_told_what_is_taken(image: object, message: str) -> None:
    with pytest.raises(BadInput, match=message) as caught:
        open_image(next(each_of(image)))  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def test_one_or_several() -> None:
    several = (PIXELS[None].repeat(3, axis=0), CHANNELS_FIRST.expand(3, -1, -1, -1), [PIXELS] * 3, iter([PIXELS] * 3))
    assert [len(list(each_of(images))) for images in several] == [3, 3, 3, 3]
    for one in (PIXELS, CHANNELS_FIRST, "a.jpg", Path("a.jpg"), Image.fromarray(PIXELS)):
        assert [image is one for image in each_of(one)] == [True]
    assert [len(some) for some in in_batches([PIXELS] * 5, 2)] == [2, 2, 1]
