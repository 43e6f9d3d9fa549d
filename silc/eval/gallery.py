"""The pictures of a report as data URIs, made to fit: the page stays small enough to send."""

from __future__ import annotations

import itertools
from collections import defaultdict
from typing import TYPE_CHECKING, NamedTuple

from silc.eval.score_table import column_names
from silc.page import data_uri, webp

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from PIL import Image

    from silc.types import Evaluation, Picture

PICTURE_BYTES = 1_600_000
"""All pictures of a page, before base64 makes them a third larger: with plots and tables a page stays below 3 MB."""
QUALITIES = ((85, 1.0), (70, 1.0), (60, 0.7), (50, 0.5))
"""WebP quality and scale, tried in turn until the pictures fit."""


class Figured(NamedTuple):
    """A picture in the page."""

    column: str
    source: str  # data URI
    width: int


Key = tuple[str, str]
"""Group and caption: what every model has a picture of."""
Gallery = list[tuple[str, list[tuple[str, list[Figured]]]]]
"""[(group, [(caption, the picture of that caption by each model)])]."""


def galleries(evaluations: Sequence[Evaluation]) -> tuple[Gallery, int]:
    """The pictures by group and caption, and how many captions were left out to keep the page small."""
    names = column_names([evaluation.record for evaluation in evaluations])
    entries: dict[Key, list[tuple[str, Picture]]] = defaultdict(list)
    for name, evaluation in zip(names, evaluations, strict=True):
        for picture in evaluation.pictures:
            entries[picture.group, picture.caption].append((name, picture))
    files = _encoded({key: [picture.image for _, picture in own] for key, own in entries.items()})
    shown = _fitting({key: sum(map(len, own)) for key, own in files.items()})
    groups: dict[str, list[tuple[str, list[Figured]]]] = {group: [] for group, caption in entries}
    for group, caption in (key for key in entries if key in shown):
        own = zip(entries[group, caption], files[group, caption], strict=True)
        figures = [Figured(name, data_uri(file), picture.image.width) for (name, picture), file in own]
        groups[group].append((caption, figures))
    return [(group, kept) for group, kept in groups.items() if kept], len(entries) - len(shown)


def _encoded(images: Mapping[Key, Sequence[Image.Image]]) -> dict[Key, list[bytes]]:
    """WebP files at the best quality at which all of them fit, or else at the least."""
    files: dict[Key, list[bytes]] = {}
    for quality, scale in QUALITIES:
        files = {key: [webp(_scaled(image, scale), quality) for image in own] for key, own in images.items()}
        if sum(map(len, itertools.chain(*files.values()))) <= PICTURE_BYTES:
            break
    return files


def _fitting(sizes: Mapping[Key, int]) -> set[Key]:
    """The keys that fit, taken from the groups in turn, so that each group keeps some."""
    by_group: dict[str, list[Key]] = defaultdict(list)
    for key in sizes:
        by_group[key[0]].append(key)
    shown: set[Key] = set()
    total = 0
    for key in filter(None, itertools.chain(*itertools.zip_longest(*by_group.values()))):
        total += sizes[key]
        if total > PICTURE_BYTES:
            break
        shown.add(key)
    return shown


def _scaled(image: Image.Image, scale: float) -> Image.Image:
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image if scale == 1 else image.resize(size)
