"""Decode untrusted bytes to an RGB image or its pixels, or say why that is not possible.

Only formats of an allow-list are decoded, and the size is read from the header, so a decompression bomb is refused
before a single pixel is decoded. All modes become RGB as a viewer shows them (`to_rgb`). EXIF's orientation is ignored
until `upright`, or `decode_pixels(turned=True)`, turns the picture.
"""

from __future__ import annotations

import io
import re
import struct
import warnings
from contextlib import suppress
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
"""Suffixes of images in other formats. Such files are counted and named, not silently skipped."""
MAX_PIXELS = 64_000_000
REDUCTIONS = (8, 4, 2)
"""Divisors of both sides with which libjpeg can decode; this takes less time than decoding in full."""


# Damaged metadata only makes Pillow warn, and our own pixel limit is the stricter one. Set once, because images are
# decoded in threads and `warnings.catch_warnings` is not thread-safe.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")


def is_image_name(name: str) -> bool:
    """Whether a file's name is an image's, in a format that is read or not; hidden files (macOS's `._` files) are not
    images."""
    base = name.rpartition("/")[2]
    suffix = base.rpartition(".")[2].lower()
    return not base.startswith(".") and "." in base and (suffix in READ or suffix in UNREAD)


class BadImage(Exception):
    """Bytes that cannot be decoded. `cause` is a short stable word for counting, the message has the details."""

    def __init__(self, cause: str, message: str) -> None:
        super().__init__(message)
        self.cause = cause


def decode_rgb(data: bytes, *, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Decode an image to 8-bit RGB.

    Raises:
        BadImage: cause `no_image` (not an image of an allowed format), `too_large` (more than `max_pixels`
            by its header; undecoded) or `broken_image` (cut or damaged).
    """
    return _decoded(_open(data, max_pixels), data)


def identify(data: bytes, *, max_pixels: int = MAX_PIXELS) -> tuple[str, tuple[int, int]]:
    """Pillow's name of the format, and (width, height), from the header alone.

    Raises:
        BadImage: cause `no_image` or `too_large`, as `decode_rgb`.
    """
    image = _open(data, max_pixels)
    return str(image.format), image.size


def decode_pixels(
    data: bytes, *, max_pixels: int = MAX_PIXELS, suffices: Suffices | None = None, turned: bool = False
) -> np.ndarray:
    """Decode an image to pixels uint8 [H, W, 3], in memory of the caller's own; JPEGs take less time than in
    `decode_rgb`.

    Args:
        suffices: predicate (width, height): a sound JPEG is decoded at the smallest of 1/8, 1/4, 1/2 scale for which
            it is true.
        turned: turn the picture as EXIF's orientation says.

    Raises:
        BadImage: as `decode_rgb`. Only Pillow decides what is broken: it reads every header, and decodes again whatever
            libjpeg-turbo fails at or warns of.
    """
    image = _open(data, max_pixels)
    if image.format in ("JPEG", "MPO") and image.mode in ("RGB", "L"):
        how = orientation(image) if turned else 1
        if suffices is not None and how in SIDEWAYS:
            suffices = _sideways(suffices)
        try:
            return _turned(_decode_jpeg(data, image.size, suffices), how)
        except ValueError:
            pass  # damaged, or of a kind that libjpeg-turbo does not know
    whole = _decoded(image, data)
    return np.array(upright(whole) if turned else whole)


ORIENTATION = 0x0112
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""The operation that turns a picture upright, by its EXIF orientation."""
SIDEWAYS = (5, 6, 7, 8)
"""Orientations that swap width and height."""
TOLD_BY = ("exif", "xmp", "XML:com.adobe.xmp", "Raw profile type exif")
"""Keys of Pillow's `info` that hold the orientation."""


def orientation(image: Image.Image) -> int:
    """EXIF's orientation of the camera, 1 to 8; 1 (upright) if it is missing or cannot be read."""
    try:
        found = image.getexif().get(ORIENTATION, 1)
    except Exception:  # Pillow may raise anything on damaged EXIF, and no picture is to be lost for that
        return 1
    return found if isinstance(found, int) and found in TURNS else 1


def upright(image: Image.Image) -> Image.Image:
    """The image turned by its EXIF orientation, without that entry; the same image if it has no orientation."""
    method = TURNS.get(orientation(image))
    if method is None:
        return image
    turned = image.transpose(method)
    for key in TOLD_BY:
        turned.info.pop(key, None)
    return turned


def _turned(pixels: np.ndarray, how: int) -> np.ndarray:
    """Pixels [H, W, 3] as `upright` turns an image of this orientation."""
    if how in SIDEWAYS:
        pixels = pixels.swapaxes(0, 1)
    if how in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if how in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)


def _sideways(suffices: Suffices) -> Suffices:
    return lambda width, height: suffices(height, width)


def _decode_jpeg(data: bytes, size: tuple[int, int], suffices: Suffices | None) -> np.ndarray:
    """
    Raises:
        ValueError: libjpeg-turbo fails, warns, or finds another size than Pillow did.
    """
    if simplejpeg.decode_jpeg_header(data)[1::-1] != size:
        raise ValueError("two decoders read different sizes in its header")
    width, height = _reduced(size, suffices) if suffices is not None else (0, 0)
    pixels: np.ndarray = simplejpeg.decode_jpeg(data, min_width=width, min_height=height)
    return pixels


def _reduced(size: tuple[int, int], suffices: Suffices) -> tuple[int, int]:
    """The smallest reduced (width, height) that suffices; zeros if the image must be decoded in full."""
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
        # Pillow's JPEG reader fails on some EXIF data, its PNG reader on long or broken text chunks.
        if data.startswith((JPEG, PNG)) and len(bare := _without_notes(data)) < len(data):
            with suppress(BadImage):
                return _open(bare, max_pixels)
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
"""First bytes of other files, and what these files are."""


def _but(data: bytes) -> str:
    """What the bytes are, in words, if they are no image; empty if that is not known."""
    known = (name for start, name in KINDS if re.match(start.encode(), data[:1000], re.DOTALL))
    return next((f", but {name}" for name in known), "")


JPEG = b"\xff\xd8"
PNG = b"\x89PNG\r\n\x1a\n"
KEPT = (b"tRNS", b"eXIf")
"""PNG's ancillary chunks (their names begin with a small letter) that change the visible image."""


def _without_notes(data: bytes) -> bytes:
    """A PNG without its texts, profile and other metadata, a JPEG without EXIF and XMP; other bytes as they are.

    Metadata holds no pixel, but Pillow refuses whole files if it is too long or damaged.
    """
    if data.startswith(JPEG):
        return _without_exif(data)
    if not data.startswith(PNG):
        return data
    kept, at = [PNG], len(PNG)
    while at + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        if kind in KEPT or not kind[:1].islower():
            kept.append(data[at : at + 12 + length])
        at += 12 + length
    return b"".join([*kept, data[at:]])


def _without_exif(data: bytes) -> bytes:
    """A JPEG without its APP1 segments."""
    kept, at = [JPEG], len(JPEG)
    while at + 4 <= len(data) and data[at] == 0xFF and data[at + 1] != 0xDA:  # the pixels begin
        stop = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        if data[at + 1] != 0xE1:
            kept.append(data[at:stop])
        at = stop
    return b"".join([*kept, data[at:]])


def _decoded(image: Image.Image, data: bytes) -> Image.Image:
    width, height = image.size
    try:
        return to_rgb(image)
    except (OSError, ValueError, SyntaxError, IndexError, EOFError, Image.DecompressionBombError, Warning) as error:
        if isinstance(error, ValueError) and len(bare := _without_notes(data)) < len(data):
            return _decoded(_open(bare, width * height), bare)  # metadata may also follow the pixels
        raise BadImage("broken_image", f"{width} x {height} image is damaged: {error}") from error


def to_rgb(image: Image.Image) -> Image.Image:
    """First frame as 8-bit RGB, as a viewer shows it: transparency goes onto white, greys of more than 8 bits keep
    their brightness (see `_grey`). Its `info` keeps the orientation."""
    if image.mode.startswith("I") or image.mode == "F":
        return _told(_grey(image).convert("RGB"), image)
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        rgba = (image.convert("LA") if image.mode == "La" else image).convert("RGBA")
        white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        return _told(Image.alpha_composite(white, rgba).convert("RGB"), image)
    image.load()
    return image if image.mode == "RGB" else image.convert("RGB")  # convert copies, even in mode RGB


def _told(rgb: Image.Image, of: Image.Image) -> Image.Image:
    rgb.info.update({key: of.info[key] for key in TOLD_BY if key in of.info})
    return rgb


def _grey(image: Image.Image) -> Image.Image:
    """8-bit grey from 16 and 32 bits and floats. Modes of 16 bits have a fixed range. Otherwise white is the first of 1
    (floats only), 255 and 65,535 that no value exceeds, or else the largest value."""
    values = np.asarray(image)
    if values.dtype.itemsize == 2:  # I;16 and similar modes: by a table, which takes the least memory
        return Image.fromarray((np.arange(65_536) / 257).round().astype(np.uint8)[values])
    values = np.nan_to_num(values.astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)
    largest = float(values.max(initial=0.0))
    ranges = (1.0, 255.0, 65_535.0) if image.mode == "F" else (255.0, 65_535.0)
    white = next((limit for limit in ranges if largest <= limit), largest)
    return Image.fromarray((values.clip(0, white) * (255 / white)).round().astype(np.uint8))
