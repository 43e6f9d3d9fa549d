"""A stranger's bytes to RGB, as an image or as its pixels, or a reason why not.

The format is taken from an allow-list and the size from the header, so a decompression bomb is refused before
a single pixel is decoded. Grey, palette, CMYK, 16-bit and animated images are converted (first frame).
"""

from __future__ import annotations

import io
import re
import warnings
from typing import TYPE_CHECKING

import numpy as np
import simplejpeg
from PIL import Image, UnidentifiedImageError

if TYPE_CHECKING:
    from collections.abc import Callable

    Suffices = Callable[[int, int], bool]  # whether an image of this width and height is large enough

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")
READ = ("jpg", "jpeg", "jpe", "jfif", "png", "apng", "webp", "gif", "bmp", "dib")
"""Suffixes of names of images in these formats."""
UNREAD = (
    *("tif", "tiff", "avif", "heic", "heif", "jxl", "jp2", "j2k", "jpx", "ppm", "pgm", "pnm", "tga", "psd", "svg"),
    *("ico", "dng", "cr2", "nef", "arw"),
)
"""Suffixes of images in other formats: counted and named where images are, instead of passed over."""
MAX_PIXELS = 64_000_000
REDUCTIONS = (8, 4, 2)
"""What libjpeg can divide both sides by, at less than the price of decoding."""


# Damaged metadata only makes Pillow warn, and our own pixel limit is the stricter one. Set once, because images are
# decoded in threads and `warnings.catch_warnings` is not for threads.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")


def is_image_name(name: str) -> bool:
    """Whether a file's name is an image's, read or not; hidden files, such as macOS's `._` ones, are none."""
    base = name.rpartition("/")[2]
    suffix = base.rpartition(".")[2].lower()
    return not base.startswith(".") and "." in base and (suffix in READ or suffix in UNREAD)


class BadImage(Exception):
    """Bytes that make no image. `cause` is a short stable word to count by, the message says the rest."""

    def __init__(self, cause: str, message: str) -> None:
        super().__init__(message)
        self.cause = cause


def decode_rgb(data: bytes, *, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Decode an image to 8-bit RGB.

    Raises:
        BadImage: cause `no_image` (not an image of an allowed format), `too_large` (more than `max_pixels`
            by its header; undecoded) or `broken_image` (cut or damaged).
    """
    return _decoded(_open(data, max_pixels))


def decode_pixels(data: bytes, *, max_pixels: int = MAX_PIXELS, suffices: Suffices | None = None) -> np.ndarray:
    """The pixels of `decode_rgb`, uint8 [H, W, 3], the caller's own to write into; JPEGs take less time.

    Args:
        suffices: a sound JPEG is decoded at the least of an eighth, a quarter and half of its sides that this calls
            enough, if any is.

    Raises:
        BadImage: as `decode_rgb` does. Pillow alone says what is broken: it reads every header, and what
            libjpeg-turbo so much as warns of is decoded by it once more.
    """
    image = _open(data, max_pixels)
    if image.format in ("JPEG", "MPO") and image.mode in ("RGB", "L"):
        try:
            return _decode_jpeg(data, image.size, suffices)
        except ValueError:
            pass  # damaged, or of a kind it does not know
    return np.array(_decoded(image))


def _decode_jpeg(data: bytes, size: tuple[int, int], suffices: Suffices | None) -> np.ndarray:
    """
    Raises:
        ValueError: libjpeg-turbo fails, warns, or finds another size than Pillow did.
    """
    if simplejpeg.decode_jpeg_header(data)[1::-1] != size:
        raise ValueError("two readers of its header disagree")
    width, height = _reduced(size, suffices) if suffices is not None else (0, 0)
    pixels: np.ndarray = simplejpeg.decode_jpeg(data, min_width=width, min_height=height)
    return pixels


def _reduced(size: tuple[int, int], suffices: Suffices) -> tuple[int, int]:
    """The least (width, height) that suffices; zeros where the whole has to be decoded."""
    width, height = size
    sizes = ((-(-width // divisor), -(-height // divisor)) for divisor in REDUCTIONS)
    return next((reduced for reduced in sizes if suffices(*reduced)), (0, 0))


def _open(data: bytes, max_pixels: int) -> Image.Image:
    """Read the header; no pixel is decoded."""
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise BadImage("too_large", str(error)) from error
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, Warning) as error:
        raise BadImage("no_image", f"{len(data)} bytes that are no {'/'.join(FORMATS)} image{_but(data)}") from error
    if image.width * image.height > max_pixels:
        raise BadImage("too_large", f"{image.width} x {image.height} pixels, the limit is {max_pixels:,}")
    return image


KINDS = (
    (r"II\*\0|MM\0\*", "a TIFF image; convert it to PNG or JPEG"),
    (r".{4}ftyp(?:heic|heix|hevc|mif1|msf1)", "a HEIC image; convert it to JPEG"),
    (r".{4}ftypavi[fs]", "an AVIF image; convert it to JPEG"),
    (r"\0\0\0\x0cJXL |\xff\x0a", "a JPEG XL image; convert it to JPEG"),
    (r"\0\0\0\x0cjP  |\xff\x4f\xff\x51", "a JPEG 2000 image; convert it to JPEG"),
    (r"\s*(?i:<!doctype html|<html)", "an HTML page, as a server sends in an image's place"),
    (r"\s*(?:<\?xml[^>]*>\s*)?(?:<!--[^>]*-->\s*)?(?:<!DOCTYPE svg[^>]*>\s*)?<svg", "an SVG drawing"),
    (r"version https://git-lfs", "a pointer of Git LFS; fetch the file itself with `git lfs pull`"),
)
"""How other files begin, and what they are."""


def _but(data: bytes) -> str:
    """What bytes are that are no image, in words; empty if that is not known."""
    known = (name for start, name in KINDS if re.match(start.encode(), data[:1000], re.DOTALL))
    return next((f", but {name}" for name in known), "")


def _decoded(image: Image.Image) -> Image.Image:
    width, height = image.size
    try:
        return to_rgb(image)
    except (OSError, ValueError, SyntaxError, IndexError, EOFError, Image.DecompressionBombError, Warning) as error:
        raise BadImage("broken_image", f"{width} x {height} image is damaged: {error}") from error


def to_rgb(image: Image.Image) -> Image.Image:
    """First frame as 8-bit RGB; transparency goes onto white, 16-bit grey keeps its high byte."""
    if image.mode.startswith("I") or image.mode == "F":
        values = np.asarray(image, dtype=np.float64)
        scale = 255 / 65535 if image.mode.startswith("I") else 255 / max(1.0, float(values.max(initial=0.0)))
        return Image.fromarray((values * scale).clip(0, 255).round().astype(np.uint8)).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, rgba).convert("RGB")
    image.load()
    return image if image.mode == "RGB" else image.convert("RGB")  # which copies, whatever the mode
