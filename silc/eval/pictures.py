"""Pictures for reports: segmentation overlays, retrieval strips, contact sheets. Pillow only."""

from __future__ import annotations

import colorsys
import textwrap
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from silc.records import Picture

PANEL = 200
"""Pixels of a panel's shorter side; smaller images are enlarged so that their pixels stay visible."""
LONGEST = 1600
"""Most pixels of a panel's longer side: a thin image gets a thinner panel."""
TILE = 160
"""Pixels of both sides of the square for a retrieved image."""
STRIP = 2**18
"""Number of pixels that are coloured at a time."""
GAP = 6
TEXT, LINE = 14, 20
"""Height of letters, and distance from line to line, in pixels."""
ALPHA = 0.7
"""Share of a class's colour in an overlay."""
EDGE = 400
"""Edges get one pixel thicker on both sides per this many pixels of a picture's shorter side."""
BACKGROUND, INK, FAINT = (255, 255, 255), (32, 33, 36), (120, 124, 130)
RIGHT = (22, 163, 74)
LEGEND_SHARE = 0.005
"""Classes that cover a smaller share of truth and prediction are left out of the legend."""


def segmentation_panel(
    image: Image.Image | None,
    truth: NDArray[np.int64],
    prediction: NDArray[np.int64],
    classes: Sequence[str],
    ignore: int = 255,
) -> Image.Image:
    """Image, truth and prediction side by side over a legend of the classes in them.

    Args:
        image: None leaves it out and draws the labels on white.
        truth: [H, W] of the image's size; pixels of `ignore` are not scored and stay grey.
        prediction: [H, W].
    """
    unscored = truth == ignore
    prediction = np.where(unscored, ignore, prediction)
    under = image or Image.new("RGB", truth.shape[::-1], BACKGROUND)
    panels = {"image": image} if image else {}
    panels["truth"] = colour_overlay(under, truth, ignore)
    panels["prediction, where scored" if unscored.any() else "prediction"] = colour_overlay(under, prediction, ignore)
    shown = _joined([_under([title], enlarged(panel), FAINT) for title, panel in panels.items()])
    return _joined([shown, _legend(present(truth, prediction, ignore), classes, shown.width)], down=True)


def colour_overlay(
    image: Image.Image, labels: NDArray[np.int64], ignore: int | None = None, *, alpha: float = ALPHA
) -> Image.Image:
    """The image in grey, with the colours of its labels [H, W] over it; pixels of `ignore` stay light grey.

    Args:
        alpha: share of the colours, 0 (the grey image) to 1 (colours alone).
    """
    overlay = Image.new("RGB", image.size)
    rows = max(1, STRIP // image.width)
    for top in range(0, image.height, rows):  # all at once, a large photograph would take gigabytes
        strip = image.crop((0, top, image.width, min(top + rows, image.height)))
        overlay.paste(_coloured(strip, labels[top : top + rows], ignore, alpha), (0, top))
    return overlay


def _coloured(image: Image.Image, labels: NDArray[np.int64], ignore: int | None, alpha: float) -> Image.Image:
    grey = np.asarray(image.convert("L"), dtype=np.float32)[..., None].repeat(3, axis=2)
    kept = np.ones(labels.shape, bool) if ignore is None else labels != ignore
    palette = np.array([colour(index) for index in range(int(labels[kept].max(initial=0)) + 1)], dtype=np.float32)
    own = palette[np.where(kept, labels, 0)]
    mixed = np.where(kept[..., None], (1 - alpha) * grey + alpha * own, 0.5 * grey + 127)
    return Image.fromarray(mixed.clip(0, 255).astype(np.uint8))


def with_edges(picture: Image.Image, labels: NDArray[np.int64]) -> Image.Image:
    """The picture with a white line where neighbouring labels [H, W] differ, thicker in large pictures."""
    edges = np.zeros(labels.shape, bool)
    edges[:, 1:] |= labels[:, 1:] != labels[:, :-1]
    edges[1:] |= labels[1:] != labels[:-1]
    mask = Image.fromarray(edges).convert("L")
    if thicker := min(picture.size) // EDGE:
        mask = mask.filter(ImageFilter.MaxFilter(2 * min(thicker, 3) + 1))
    lined = picture.copy()
    lined.paste(BACKGROUND, mask=mask)
    return lined


def with_legend(picture: Image.Image, labels: NDArray[np.int64], classes: Sequence[str]) -> Image.Image:
    """The picture over a legend of the classes in its labels [H, W], largest first; letters grow with the picture."""
    counts = np.bincount(labels.ravel(), minlength=len(classes))
    present = [int(i) for i in (-counts).argsort(kind="stable") if counts[i] > LEGEND_SHARE * labels.size]
    size = max(TEXT, picture.width // 60)
    widest = max((_entry_width(classes[index], size) for index in present), default=1)
    return _joined([picture, _legend(present, classes, max(picture.width, widest), size)], down=True)


def colour(index: int) -> tuple[int, int, int]:
    """A class's colour: hues at the golden angle, in three shades, the same in every picture."""
    shade = ((0.62, 0.92), (0.85, 0.72), (0.45, 0.80))[index % 3]
    red, green, blue = colorsys.hsv_to_rgb(index * 0.618034 % 1, *shade)
    return round(255 * red), round(255 * green), round(255 * blue)


def palette_image(labels: NDArray[np.integer], num_classes: int) -> Image.Image:
    """An image whose pixels are the labels [H, W]; up to 256 classes it has a palette of the overlay's colours."""
    if num_classes > 256:
        return Image.fromarray(labels.astype(np.uint16))
    picture = Image.fromarray(labels.astype(np.uint8))
    picture.putpalette([value for index in range(num_classes) for value in colour(index)])
    return picture


def retrieval_strip(found: Sequence[Image.Image], rank: int, total: int) -> Image.Image:
    """The images that a caption found, best first, with a frame around the right one.

    Args:
        rank: place of the right image among all `total`, from 1; it may lie beyond those shown.
    """
    tiles = [_tile(image) for image in found]
    if rank <= len(tiles):
        ImageDraw.Draw(tiles[rank - 1]).rectangle((0, 0, TILE - 1, TILE - 1), outline=RIGHT, width=6)
    note = f"the right image is number {rank} of {total}"
    return _under([note], _joined(tiles), RIGHT if rank == 1 else FAINT, 18)


def contact_sheet(pictures: Sequence[Picture], columns: int) -> Image.Image:
    """Many pictures on one sheet, row by row, each under its group and caption. Needs at least one picture."""
    cells = [_captioned(picture) for picture in pictures]
    rows = [cells[start : start + columns] for start in range(0, len(cells), columns)]
    widths = [max(row[column].width for row in rows if column < len(row)) for column in range(len(rows[0]))]
    heights = [max(cell.height for cell in row) for row in rows]
    margin = 3 * GAP
    sheet = Image.new(
        "RGB", (sum(widths) + margin * (len(widths) + 1), sum(heights) + margin * (len(rows) + 1)), BACKGROUND
    )
    y = margin
    for row, height in zip(rows, heights, strict=True):
        x = margin
        for cell, width in zip(row, widths, strict=False):
            sheet.paste(cell, (x, y))
            x += width + margin
        y += height + margin
    return sheet


def small(image: Image.Image) -> Image.Image:
    """An image whose sides have at most twice a panel's pixels."""
    shown = image.copy()
    shown.thumbnail((2 * PANEL, 2 * PANEL))
    return shown


def evenly_spaced(total: int, count: int) -> list[int]:
    """At most `count` indices spread evenly over range(total), for examples without selection.

    >>> evenly_spaced(10, 3)
    [0, 3, 6]
    """
    count = min(count, total)
    return [i * total // count for i in range(count)]


def _captioned(picture: Picture) -> Image.Image:
    image = picture.image
    return _under(textwrap.wrap(f"{picture.group}: {picture.caption}", max(20, image.width // 8)), image, INK)


def _under(lines: Sequence[str], image: Image.Image, colour: tuple[int, int, int], size: int = TEXT) -> Image.Image:
    """The image under lines of text."""
    line = size + size // 2 - 1
    cell = Image.new("RGB", (image.width, line * len(lines) + image.height), BACKGROUND)
    for number, text in enumerate(lines):
        ImageDraw.Draw(cell).text((0, number * line + 1), text, colour, font=_font(size))
    cell.paste(image, (0, line * len(lines)))
    return cell


def _joined(images: Sequence[Image.Image], *, down: bool = False) -> Image.Image:
    """Images beside each other or, if `down`, below each other."""
    widths, heights = zip(*(image.size for image in images), strict=True)
    gaps = GAP * (len(images) - 1)
    size = (max(widths), sum(heights) + gaps) if down else (sum(widths) + gaps, max(heights))
    sheet, place = Image.new("RGB", size, BACKGROUND), 0
    for image in images:
        sheet.paste(image, (0, place) if down else (place, 0))
        place += GAP + (image.height if down else image.width)
    return sheet


def enlarged(image: Image.Image) -> Image.Image:
    """The image scaled to a panel: a small image is enlarged with visible pixels, a large one is shrunk."""
    factor = min(PANEL / min(image.size), LONGEST / max(image.size))
    size = (max(1, round(image.width * factor)), max(1, round(image.height * factor)))
    return image.resize(size, Image.Resampling.NEAREST if factor >= 1 else Image.Resampling.LANCZOS)


def _tile(image: Image.Image) -> Image.Image:
    tile = Image.new("RGB", (TILE, TILE), (240, 241, 243))
    factor = TILE / max(image.size)
    size = (max(1, round(image.width * factor)), max(1, round(image.height * factor)))
    inside = image.resize(size, Image.Resampling.NEAREST if factor >= 2 else Image.Resampling.LANCZOS)
    tile.paste(inside, ((TILE - size[0]) // 2, (TILE - size[1]) // 2))
    return tile


def present(truth: NDArray[np.int64], prediction: NDArray[np.int64], ignore: int) -> list[int]:
    """Classes in truth or prediction, most pixels first."""
    seen = np.concatenate([truth, prediction])
    counts = np.bincount(seen[seen != ignore], minlength=1)
    return [int(i) for i in counts.argsort(kind="stable")[::-1] if counts[i] > LEGEND_SHARE * truth.size]


def _legend(present: Sequence[int], classes: Sequence[str], width: int, size: int = TEXT) -> Image.Image:
    """Squares of colour with names, as many per line as the width holds; `size` is the height of letters in pixels."""
    font, line, square, x = _font(size), LINE * size // TEXT, size - 1, 0
    rows: list[list[tuple[int, int]]] = [[]]
    for index in present:
        needed = _entry_width(classes[index], size)
        if rows[-1] and x + needed > width:
            rows.append([])
            x = 0
        rows[-1].append((x, index))
        x += needed
    legend = Image.new("RGB", (width, line * len(rows)), BACKGROUND)
    draw = ImageDraw.Draw(legend)
    for number, row in enumerate(rows):
        top = number * line
        for x, index in row:
            draw.rectangle((x, top + 3, x + square, top + 3 + square), fill=colour(index))
            draw.text((x + square + 6, top + 1), classes[index], INK, font=font)
    return legend


def _entry_width(name: str, size: int) -> int:
    return 6 + size + int(_font(size).getlength(name)) + size


def _font(size: int = TEXT) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size=size)
