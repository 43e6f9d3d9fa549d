"""Open images given as a file's name, a Pillow image, an array, a tensor, or several of them, as RGB images."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from silc.errors import BadInput
from silc.eval.files import read_image
from silc.images import to_rgb, upright

Picture = Image.Image | str | Path | np.ndarray[Any, Any] | Tensor
"""An image: a file, a Pillow image, an array [H, W, 3] or a tensor [3, H, W], either uint8 or float in 0..1."""
Pictures = Picture | Iterable[Picture]
"""One image, or several; an array [B, H, W, 3] and a tensor [B, 3, H, W] are several."""


def each_of(images: Pictures) -> Iterator[Picture]:
    """Iterate over the given images, one or several; none is opened."""
    if isinstance(images, np.ndarray | Tensor):
        yield from images if images.ndim == 4 else [images]
    elif isinstance(images, Iterable) and not isinstance(images, str | bytes | bytearray | Mapping):
        yield from images
    else:
        yield images  # type: ignore[misc]  # `open_image` refuses dictionaries and the like


def in_batches(images: Pictures, size: int) -> Iterator[list[Picture]]:
    """The images in lists of at most `size`.

    Raises:
        BadInput: a size below 1.
    """
    waiting, size = each_of(images), at_least_one(size)
    while some := list(islice(waiting, size)):
        yield some


def at_least_one(batch_size: int) -> int:
    """Return the size.

    Raises:
        BadInput: it is below 1.
    """
    if batch_size < 1:
        raise BadInput(f"batch_size must be at least 1; got {batch_size}")
    return batch_size


def open_image(image: Picture) -> Image.Image:
    """Open an image as RGB; images from files and from Pillow are turned by their EXIF orientation.

    Raises:
        BadInput: no such file, no image in it, an image that is cut or cannot become RGB, an array or tensor of another
            shape, type or range, or something else.
    """
    if isinstance(image, str) and "://" in image:
        raise BadInput(f"{image} is an address; download the image first and give its file's name")
    if isinstance(image, str | Path):
        return upright(read_image(Path(image)))
    if isinstance(image, np.ndarray):
        return _of_array(image, "an array", "[H, W, 3]", channels=-1)
    if isinstance(image, Tensor):
        if image.is_meta or image.layout != torch.strided:
            raise BadInput("an image is a dense tensor [3, H, W] with values; this one is sparse or on the meta device")
        return _of_array(image.detach().cpu(), "a tensor", "[3, H, W]", channels=0)
    if not isinstance(image, Image.Image):
        raise BadInput(
            "an image is a file's name, a PIL.Image, an array [H, W, 3] or a tensor [3, H, W], not "
            f"{type(image).__name__}; PIL.Image.open(io.BytesIO(data)) reads one from bytes"
        )
    if 0 in image.size:
        raise BadInput(f"an image of {image.width} x {image.height} pixels holds nothing")
    try:
        return upright(to_rgb(image))
    except (OSError, ValueError, SyntaxError) as error:
        raise BadInput(f"an image of {image.width} x {image.height} pixels, mode {image.mode}: {error}") from error


def _of_array(given: Any, kind: str, shape: str, *, channels: int) -> Image.Image:
    """An image from pixels: uint8, or float with 0 for black and 1 for white."""
    rule = f"an image is {kind} {shape}, uint8, or float from 0 (black) to 1 (white)"
    if given.ndim != 3 or given.shape[channels] != 3 or 0 in given.shape:
        raise BadInput(f"{rule}; this one is {list(given.shape)}: move the channels or convert it to RGB")
    if given.dtype == torch.bfloat16:  # which numpy does not have
        given = given.float()
    pixels = np.moveaxis(np.asarray(given), channels, -1)
    if np.issubdtype(pixels.dtype, np.floating):
        if not (pixels.min() >= 0 and pixels.max() <= 1):  # this refuses NaN, too
            raise BadInput(f"{rule}; this one goes from {pixels.min():.4g} to {pixels.max():.4g}: scale it")
        pixels = (pixels.astype(np.float64) * 255).round().astype(np.uint8)
    if pixels.dtype != np.uint8:
        raise BadInput(f"{rule}; this one is {pixels.dtype}: convert it")
    return Image.fromarray(np.ascontiguousarray(pixels))
