"""Pascal Context, on the photographs of VOC2010: 459 classes, and the 59 that are mostly scored, with a background.

Each of its authors' `trainval/*.mat` has a label map of 459 classes. `trainval_merged.json` has masks of the 59 with
their numbers among the 459. Masks are painted over each other in the file's order, as the `detail` API and CAT-Seg do.
The file is read whole, which takes some gigabytes of memory. A class has the same name in both lists, so the numbers
follow from the names.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from silc.errors import BadInput
from silc.eval.files import lines_of, text_of
from silc.eval.layouts.label_maps import CONTEXT
from silc.eval.prompts import class_names
from silc.eval.releases.made import Made, copies, label_map
from silc.eval.releases.matlab import read_matrix
from silc.eval.releases.rle import mask_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

NONE = 65_535
LISTS = ("ImageSets/SegmentationContext/{}.txt", "pascalcontext_{}.txt", "ImageSets/Main/{}.txt")
"""Files that may list a part's photographs; the last is VOC's own list of its training and validation parts."""


def plan_459(root: Path, out: Path, parts: Sequence[str]) -> list[Made]:
    """The files to make: label maps of 459 classes, 65535 for none, and the photographs.

    Raises:
        BadInput: no list of names, or something that it names is missing.
    """
    place, to = root / CONTEXT, out / CONTEXT
    names = _listed(place, "val")
    labels = [
        label_map(to / "annotations_detectron2/pc459_val" / f"{name}.png", partial(read_459, _mat(place, name)), "val")
        for name in names
    ]
    return [*labels, *copies((place / "JPEGImages" / f"{name}.jpg" for name in names), to / "JPEGImages")]


def plan_59(root: Path, out: Path, parts: Sequence[str]) -> list[Made]:
    """The files to make: mmsegmentation's label maps, 0 for none of the 59 classes, their lists, and the photographs.

    Raises:
        BadInput: there is neither a file of masks nor maps, or something that a list names is missing.
    """
    place, to = root / CONTEXT, out / CONTEXT
    file = place / "trainval_merged.json"
    merged = _merged(file) if file.is_file() else None
    files = []
    for part in parts:
        if merged is not None:
            images, masks = merged
            own = [image for image in images if image["phase"] == part]
            reads = {Path(i["file_name"]).stem: partial(_painted, i, masks[i["image_id"]], file) for i in own}
        else:
            reads = {name: partial(_of_mat, _mat(place, name)) for name in _listed(place, part)}
        if not reads:
            raise BadInput(f"{file} has no photographs of the part {part}")
        names = sorted(reads)
        to_labels = to / "SegmentationClassContext"
        files += [label_map(to_labels / f"{name}.png", partial(read_59, reads[name]), part) for name in names]
        listed = to / "ImageSets/SegmentationContext" / f"{part}.txt"
        files.append(Made(listed, partial(_write_lines, names)))
        files += copies((place / "JPEGImages" / f"{name}.jpg" for name in names), to / "JPEGImages")
    return files


def read_459(mat: Path) -> NDArray[np.uint16]:
    """Labels [H, W] of the 459 classes, or 65535 for none."""
    numbers = _of_mat(mat)
    return np.where(numbers == 0, NONE, numbers - 1).astype(np.uint16)


def read_59(read: Any) -> NDArray[np.uint8]:
    """Labels [H, W], 1 to 59 or 0 for none; `read` gives numbers of the 459 classes."""
    return np.asarray(_fifty_nine()[read()])


def numbers_59() -> list[int]:
    """The number of each of the 59 classes among the 459, from 1."""
    among = {name: number for number, name in enumerate(class_names("pascal_context_459"), 1)}
    return [among[name] for name in class_names("pascal_context_59")]


def _fifty_nine() -> NDArray[np.uint8]:
    table = np.zeros(460, np.uint8)
    table[numbers_59()] = np.arange(1, 60)
    return table


def _listed(place: Path, part: str) -> list[str]:
    lists = [place / where.format(part) for where in LISTS]
    found = next((file for file in lists if file.is_file()), None)
    if found is None:
        raise BadInput(f"{place} has no list of its {part} photographs; add one of {', '.join(map(str, lists))}")
    return [line.split()[0] for line in lines_of(found)]


def _mat(place: Path, name: str) -> Path:
    mat = place / "trainval" / f"{name}.mat"
    if not mat.is_file():
        raise BadInput(f"the label map {mat} is missing; unpack Pascal Context's trainval.tar.gz there")
    return mat


def _of_mat(mat: Path) -> NDArray[np.int64]:
    numbers = read_matrix(mat, "LabelMap").astype(np.int64)
    if numbers.ndim != 2 or numbers.min(initial=0) < 0 or numbers.max(initial=0) > 459:
        raise BadInput(f"{mat} must be a label map [H, W] of 0 to 459; it has {numbers.max(initial=0)}")
    return numbers


def _merged(file: Path) -> tuple[Sequence[Mapping[str, Any]], Mapping[Any, Sequence[Any]]]:
    """The photographs, and the masks of each photograph by its id."""
    try:
        found = json.loads(text_of(file))
        images, masks = found["images"], found["annos_segmentation"]
        by_image: dict[Any, list[Any]] = defaultdict(list)
        for mask in masks:
            by_image[mask["image_id"]].append(mask)
        odd = [image for image in images if not _is_photograph(image)]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise BadInput(f"{file} is no trainval_merged.json of Pascal Context: {error!r}") from error
    if odd:
        raise BadInput(
            f"{file}: the photograph {str(odd[0])[:80]} needs file_name, phase, image_id, and height and width in "
            "pixels"
        )
    return images, by_image


def _is_photograph(entry: Any) -> bool:
    """Whether an entry has all that the entry of a photograph needs."""
    if not isinstance(entry, dict):
        return False
    sides = entry.get("height"), entry.get("width")
    named = isinstance(entry.get("file_name"), str) and isinstance(entry.get("image_id"), int | str)
    return named and "phase" in entry and all(isinstance(side, int) and side > 0 for side in sides)


def _painted(image: Mapping[str, Any], masks: Sequence[Any], file: Path) -> NDArray[np.int64]:
    """Numbers of the 459 classes [H, W]; later masks cover earlier ones.

    Raises:
        BadInput: a mask of the file is damaged.
    """
    numbers = np.zeros((image["height"], image["width"]), np.int64)
    for place, mask in enumerate(masks):
        try:
            number = mask["category_id"]
            if not isinstance(number, int) or not 0 <= number <= 459:
                raise BadInput(f"its category_id is {number!r}, not one of 0 to 459")
            numbers[mask_of(mask["segmentation"], numbers.shape)] = number
        except (BadInput, KeyError, TypeError, ValueError, IndexError) as error:
            why = (
                str(error)
                if isinstance(error, BadInput)
                else f"{error!r}; a mask needs size and counts, its run lengths"
            )
            raise BadInput(f"{file}: mask {place} of {image['file_name']} is damaged: {why}") from error
    return numbers


def _write_lines(names: Sequence[str], to: Path) -> None:
    to.write_text("".join(f"{name}\n" for name in names), encoding="utf-8")
