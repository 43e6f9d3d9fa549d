"""Pictures with boxes. Pillow only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from PIL import Image, ImageDraw, ImageFont

from silc.eval.pictures import BACKGROUND, INK, colour

if TYPE_CHECKING:
    from silc.eval.average_precision import Detection
    from silc.eval.datasets import Box

LETTERS = 40
"""Letters are as high as the picture's shorter side / LETTERS, but at least SMALLEST and at most LARGEST pixels."""
SMALLEST, LARGEST = 10, 28


def with_boxes(image: Image.Image, boxes: Sequence[Detection | Box], names: Sequence[str]) -> Image.Image:
    """The image with a frame around each box, its class name and, if it has one, its score."""
    picture = image.copy()
    pen = ImageDraw.Draw(picture)
    size = min(LARGEST, max(SMALLEST, min(image.size) // LETTERS))
    font = ImageFont.load_default(size=size)
    for box in reversed(boxes):  # the first boxes have the highest scores and are drawn on top
        ink = colour(box.label)
        left, top = box.x, box.y
        right, bottom = max(left, left + box.width - 1), max(top, top + box.height - 1)
        pen.rectangle((left, top, right, bottom), outline=ink, width=max(1, size // 6))
        score = getattr(box, "score", None)
        said = names[box.label] if score is None else f"{names[box.label]} {score:.0%}"
        place = (left, max(0, top - size - 2))
        pen.rectangle(pen.textbbox(place, said, font=font), fill=ink)
        pen.text(place, said, fill=BACKGROUND if sum(ink) < 460 else INK, font=font)
    return picture


def beside(left: Image.Image, right: Image.Image, gap: int = 6) -> Image.Image:
    """Two pictures of one height beside each other."""
    joined = Image.new("RGB", (left.width + gap + right.width, max(left.height, right.height)), BACKGROUND)
    joined.paste(left, (0, 0))
    joined.paste(right, (left.width + gap, 0))
    return joined
