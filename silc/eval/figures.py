"""Segmentations side by side: image, truth, a baseline and other predictions, with the pairs of classes that changed.

The images are chosen by the user, or those in which the predictions differ most. Each data set has one page, which
loads no other file.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from silc.durable import write_whole
from silc.errors import BadInput
from silc.eval.embed import dealt, shared
from silc.eval.pictures import BACKGROUND, colour, colour_overlay, enlarged, present
from silc.eval.score_table import percent
from silc.page import data_uri, render, webps
from silc.settings import nearest

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL import Image

    from silc.eval.datasets import SegmentationSet
    from silc.eval.segment import ZeroShotSegmentation
    from silc.eval.sliding import Scorer

PICTURE_BYTES = 1_600_000
"""Limit for the bytes of all pictures of a page, before base64 makes them a third larger."""
LISTED, LISTED_OF_ALL = 5, 20
"""Limits for the number of listed changes: below an image, and for the whole set."""


class Column(NamedTuple):
    """One column of predictions: its name, the task with its settings, and the scorer of a model."""

    name: str
    task: ZeroShotSegmentation
    scorer: Scorer


class Change(NamedTuple):
    """Scored pixels that have class `was` in the baseline and class `now` in another column."""

    was: int
    now: int
    pixels: int
    was_right: int
    now_right: int


@dataclass(frozen=True)
class Figure:
    """The predictions for one image, and how they differ."""

    index: int
    labels: Sequence[NDArray[np.int64]]
    """Predicted labels [H, W] of each column."""
    right: Sequence[float | None]
    """Share of the scored pixels that each column has right."""
    changed: Sequence[float]
    """Share of the scored pixels in which each column after the first differs from the first."""
    changes: Sequence[Sequence[Change]]
    """The changes in each column after the first, largest first."""


@dataclass
class Compared:
    """Columns side by side on one data set; the first is the baseline."""

    task: str
    data: SegmentationSet
    columns: Sequence[str]
    chosen: bool
    """Whether the user named the images."""
    photographs: bool
    images: int = 0
    """Number of images that were compared."""
    scored: int = 0
    """Number of scored pixels in the compared images."""
    totals: list[dict[tuple[int, int], list[int]]] = field(default_factory=list)
    """For each column after the first, by (was, now): pixels, pixels right in the baseline, pixels right now."""
    figures: list[Figure] = field(default_factory=list)

    def add(self, truth: NDArray[np.int64], figure: Figure, most: int) -> None:
        """Count an image, and keep it if it is among the `most` images with the largest change; ties keep the first."""
        self.images += 1
        self.scored += int((truth != self.data.ignore).sum())
        for total, own in zip(self.totals, figure.changes, strict=True):
            _add(total, own)
        self._keep([figure], most)

    def join(self, other: Compared, most: int) -> None:
        """Add the counts and the images of another rank."""
        self.images, self.scored = self.images + other.images, self.scored + other.scored
        for total, own in zip(self.totals, other.totals, strict=True):
            _add(total, _listed(own))
        self._keep(other.figures, most)

    def _keep(self, figures: Sequence[Figure], most: int) -> None:
        several = [one for one in (*self.figures, *figures) if self.chosen or max(one.changed) > 0]
        if self.chosen:
            self.figures = several
        else:
            self.figures = heapq.nlargest(most, several, key=lambda one: (max(one.changed), -one.index))

    def changes(self, other: int) -> list[Change]:
        """All changes in a column, largest first; column 0 is the first one after the baseline."""
        return _listed(self.totals[other])


def compared(columns: Sequence[Column], most: int, ids: Sequence[str] = ()) -> Compared:
    """Predictions of several columns on one set, image by image.

    Args:
        columns: two or more, with the same set; the first is the baseline.
        most: number of images that are kept: those in which most scored pixels differ from the baseline.
        ids: images that are kept instead, in this order; no others are compared.
    """
    task = columns[0].task
    data, world, at_once = task.scored_set, task.world, max(1, task.config.batch_size // 2)
    looked_at = [data.ids.index(one) for one in ids] if ids else range(len(data))

    def found() -> Compared:
        own = _empty(columns, bool(ids))
        for numbers in dealt(len(looked_at), at_once, world):
            group = [looked_at[number] for number in numbers]
            seen = zip(*(column.task.predictions(column.scorer, group) for column in columns), strict=True)
            for index, images in zip(group, seen, strict=True):
                unscored = np.any([one.scored == data.ignore for one in images], axis=0)  # also below eval.confidence
                truth = np.where(unscored, data.ignore, images[0].truth)
                own.add(truth, _figure(index, truth, [one.labels.numpy() for one in images], data), most)
            task.progress(numbers.stop, len(looked_at))
        return own

    first, *others = shared(found, world)
    for theirs in others:
        first.join(theirs, most)
    if ids:
        first.figures.sort(key=lambda one: looked_at.index(one.index))
    return first


def check_ids(ids: Sequence[str], sets: Sequence[SegmentationSet]) -> None:
    """Check that each image is in one of the sets.

    Raises:
        BadInput: an image that none of the sets has; the message gives the nearest name.
    """
    there = [one for data in sets for one in data.ids]
    if unknown := [one for one in ids if one not in there]:
        names = ", ".join(data.name for data in sets)
        raise BadInput(
            f"no image '{unknown[0]}' in {names}{nearest(unknown[0], there) or '; an id is a name without .jpg'}"
        )


def _empty(columns: Sequence[Column], chosen: bool) -> Compared:
    task, names = columns[0].task, [column.name for column in columns]
    return Compared(
        task.name,
        task.scored_set,
        names,
        chosen,
        task.config.photographs,
        totals=[{} for _ in names[1:]],
    )


def _figure(index: int, truth: NDArray[np.int64], labels: Sequence[NDArray[np.int64]], data: SegmentationSet) -> Figure:
    scored = truth != data.ignore
    num = int(scored.sum())
    right = [float((own == truth)[scored].mean()) if num else None for own in labels]
    changes = [_changes(labels[0][scored], own[scored], truth[scored], len(data.classes)) for own in labels[1:]]
    changed = [sum(one.pixels for one in own) / max(1, num) for own in changes]
    return Figure(index, [own.astype(np.int32) for own in labels], right, changed, changes)


def _changes(
    was: NDArray[np.int64], now: NDArray[np.int64], truth: NDArray[np.int64], num_classes: int
) -> list[Change]:
    """The changes among pixels [N] of an image, largest first."""
    differ = was != now
    was, now, truth = was[differ], now[differ], truth[differ]
    pairs, place, pixels = np.unique(was * num_classes + now, return_inverse=True, return_counts=True)
    rights = [np.bincount(place, weights=own == truth, minlength=len(pairs)).astype(int) for own in (was, now)]
    rows = zip(pairs.tolist(), pixels.tolist(), *(own.tolist() for own in rights), strict=True)
    return _sorted([Change(*divmod(pair, num_classes), *counts) for pair, *counts in rows])


def _add(total: dict[tuple[int, int], list[int]], changes: Sequence[Change]) -> None:
    for was, now, *counts in changes:
        before = total.get((was, now), [0, 0, 0])
        total[was, now] = [a + b for a, b in zip(before, counts, strict=True)]


def _listed(total: Mapping[tuple[int, int], Sequence[int]]) -> list[Change]:
    return _sorted([Change(*pair, *counts) for pair, counts in total.items()])


def _sorted(changes: Sequence[Change]) -> list[Change]:
    return sorted(changes, key=lambda one: (-one.pixels, one.was, one.now))


def write_page(path: Path, found: Compared) -> None:
    """Write a self-contained HTML page of 3 MB at most; it says how many images did not fit."""
    panels = {one.index: _panels(one, found) for one in found.figures}
    files = webps({index: [picture for _, picture in own] for index, own in panels.items()}, PICTURE_BYTES)
    shown, total = [], 0
    for one in found.figures:
        total += sum(map(len, files[one.index]))
        if total > PICTURE_BYTES:
            break
        pictures = zip(panels[one.index], files[one.index], strict=True)
        shown.append(_entry(one, found, [(title, data_uri(file), image.width) for (title, image), file in pictures]))
    baseline, *others = found.columns
    page = render(
        Path(__file__).with_name("figures.html.j2"),
        filters={"percent": percent, "count": "{:,}".format},
        title=f"{found.task}: {', '.join(others)} against {baseline}",
        found=found,
        baseline=baseline,
        totals=[(name, *_summary(found, number)) for number, name in enumerate(others)],
        entries=shown,
        left_out=len(found.figures) - len(shown),
        listed=LISTED_OF_ALL,
    )
    write_whole(path, page)


def _summary(found: Compared, number: int) -> tuple[float, float | None, float | None, list[Change]]:
    """Share of scored pixels that changed; shares of these that were right before and are right now; top changes."""
    changes = found.changes(number)
    pixels, before, now = (sum(one[column] for one in changes) for column in range(2, 5))
    shares = (before / pixels, now / pixels) if pixels else (None, None)
    return pixels / max(1, found.scored), *shares, changes[:LISTED_OF_ALL]


def _panels(one: Figure, found: Compared) -> list[tuple[str, Image.Image]]:
    """(title, picture) of an image, its truth, and each column's labels where the truth is scored."""
    from PIL import Image

    data = found.data
    image, truth = data.example(one.index)
    under = image if found.photographs else Image.new("RGB", image.size, BACKGROUND)
    maps = [truth, *(np.where(truth == data.ignore, data.ignore, own) for own in one.labels)]
    drawn = [enlarged(colour_overlay(under, own, data.ignore)) for own in maps]
    titles = ["truth", *found.columns]
    return [*([("image", enlarged(image))] if found.photographs else []), *zip(titles, drawn, strict=True)]


def _entry(one: Figure, found: Compared, pictures: Sequence[tuple[str, str, int]]) -> dict[str, object]:
    """The page's entry for an image, as values for its template."""
    data = found.data
    _, truth = data.example(one.index)
    classes = dict.fromkeys(index for own in one.labels for index in present(truth, own.astype(np.int64), data.ignore))
    return {
        "id": data.ids[one.index],
        "pictures": pictures,
        "right": dict(zip(found.columns, one.right, strict=True)),
        "legend": [(data.classes[index], "#{:02x}{:02x}{:02x}".format(*colour(index))) for index in classes],
        "changes": [
            (name, share, own[:LISTED])
            for name, share, own in zip(found.columns[1:], one.changed, one.changes, strict=True)
        ],
    }
