"""A stranger's bytes to an RGB image, or a reason why not.

The format is taken from an allow-list and the size from the header, so a decompression bomb is refused before
a single pixel is decoded. Grey, palette, CMYK, 16-bit and animated images are converted (first frame).
"""

from __future__ import annotations

import io
import warnings

import numpy as np
from PIL import Image, UnidentifiedImageError

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")
MAX_PIXELS = 64_000_000


# Damaged metadata only makes Pillow warn, and our own pixel limit is the stricter one. Set once, because images are
# decoded in threads and `warnings.catch_warnings` is not for threads.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")


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
    image = _open(data)
    width, height = image.size
    if width * height > max_pixels:
        raise BadImage("too_large", f"{width} x {height} pixels, the limit is {max_pixels:,}")
    try:
        return to_rgb(image)
    except (OSError, ValueError, SyntaxError, IndexError, EOFError, Image.DecompressionBombError, Warning) as error:
        raise BadImage("broken_image", f"{width} x {height} image is damaged: {error}") from error


def _open(data: bytes) -> Image.Image:
    """Read the header; no pixel is decoded."""
    try:
        return Image.open(io.BytesIO(data), formats=FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise BadImage("too_large", str(error)) from error
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, Warning) as error:
        raise BadImage("no_image", f"{len(data)} bytes that are no {'/'.join(FORMATS)} image") from error


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
