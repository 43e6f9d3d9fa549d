"""Images with boxes: COCO's and LVIS's archives, and folders with COCO JSON or in YOLO's or VOC's layout.

A file in COCO's form has lists `images` (id, file_name, width, height), `annotations` (image_id, category_id, bbox
[x, y, width, height], and area and iscrowd where they are known) and `categories` (id, name). LVIS's form adds
categories that an image is known not to have (`neg_category_ids`), categories that are labelled only in part in an
image, and a frequency of each category. `info.voc_labelled_category_ids` names the only categories that are labelled.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from silc.errors import BadInput
from silc.eval.datasets import Box, DetectionSet, Lazy, Source
from silc.eval.files import distinct, read_image, text_of
from silc.eval.layouts.yolo_voc import is_voc, is_yolo, voc, yolo

SLACK = 1.0
"""Pixels that a box may reach beyond its image, because annotation files have rounded numbers."""
CAUSES = {
    "no_box": "bbox is not four finite numbers",
    "empty": "no width or height",
    "outside": "outside its image",
    "unknown_image": "of an image that is not listed",
    "unknown_category": "of a category that is not listed",
    "no_area": "area is no finite number",
    "no_crowd": "iscrowd is neither 0 nor 1",
}
"""What can be wrong with a box."""


def official(root: Path) -> list[Source[DetectionSet]]:
    """The sources of COCO 2017 and LVIS v1."""
    coco, lvis = root / "coco", root / "lvis" / "lvis_v1_val.json"
    annotations = coco / "annotations" / "instances_val2017.json"
    return [_source("coco", annotations, coco / "val2017"), _source("lvis", lvis, coco / "val2017")]


def folder(path: Path) -> Source[DetectionSet]:
    """The source of a user's own folder, in COCO's form or YOLO's or VOC's layout."""
    file = path / "annotations" / "instances_val.json"
    if file.is_file() or not (is_yolo(path) or is_voc(path)):
        return Source("detection", path.name, [file], partial(read_scored, path.name, file))
    return Source("detection", path.name, [path], lambda: unbroken(*read_folder(path, "val"), path))


def _source(name: str, file: Path, images: Path) -> Source[DetectionSet]:
    return Source("detection", name, [file, images], partial(read_scored, name, file, images))


@dataclass
class Broken:
    """Numbers of unusable boxes by cause, and where the first box with each cause is."""

    counts: Counter[str] = field(default_factory=Counter)
    first: dict[str, str] = field(default_factory=dict)

    def add(self, cause: str, where: str) -> None:
        """Count one more broken box."""
        self.counts[cause] += 1
        self.first.setdefault(cause, where)

    def __str__(self) -> str:
        told = (f"{count} {CAUSES[cause]} ({self.first[cause]})" for cause, count in self.counts.most_common())
        return ", ".join(told)


def read_scored(name: str, file: Path, images: Path | None = None) -> DetectionSet:
    """Read a set to score on; a set with a broken box is refused.

    Raises:
        BadInput: as `read_coco`, and a box that is broken.
    """
    return unbroken(*read_coco(name, file, images), file)


def unbroken(data: DetectionSet, broken: Broken, place: Path) -> DetectionSet:
    """The data set, unchanged, if no box is broken.

    Raises:
        BadInput: a box is broken.
    """
    if broken.counts:
        raise BadInput(
            f"{place}: broken boxes: {broken}; every box is scored and needs a bbox [x, y, width, height] in pixels "
            "within the image: repair or remove these"
        )
    return data


def read_coco(name: str, file: Path, images: Path | None = None) -> tuple[DetectionSet, Broken]:
    """Read a set in COCO's or LVIS's form: the set without its broken boxes, and the broken boxes.

    Args:
        images: folder of the images; None: where COCO's archives have it, beside the annotations.

    Raises:
        BadInput: the file is in another form or has no boxes; a category has no name; an image is missing.
    """
    try:
        values = json.loads(text_of(file))
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{file} is no JSON: {error}") from error
    data, broken = parsed(name, values, str(file))
    folders = [images] if images else folders_of(file)
    paths = _located(values["images"], folders, file)
    return replace(data, images=Lazy(paths, read_image), files=[file, *paths]), broken


def folders_of(file: Path) -> list[Path]:
    """Folders where the images of an annotation file may lie. First those named `images` or like the end of the file's
    name (val2017 of instances_val2017.json): in the parent of the file's folder, in that folder, or in the parent's
    coco/, as LVIS has COCO's images. Then that folder and its parent themselves."""
    parts, root = file.stem.split("_"), file.parent.parent
    ends = ["_".join(parts[start:]) for start in range(1, len(parts))]
    places = [place / end for place in (root, file.parent, root / "coco") for end in (*ends, "images")]
    return [*places, file.parent, root]


def _located(entries: Sequence[Mapping[str, Any]], folders: Sequence[Path], file: Path) -> list[Path]:
    """The file of each image, by `file_name`, or by LVIS's `coco_url`, whose last folder is the split.

    Raises:
        BadInput: an image is missing.
    """
    paths: list[Path] = []
    for entry in entries:
        url = [part for part in str(entry.get("coco_url", "")).split("/") if part]
        name = str(entry.get("file_name") or (url[-1] if url else ""))
        tried = [place / name for place in folders]
        tried += [place.parent / "/".join(url[-2:]) for place in folders] if len(url) > 1 else []
        found = next((path for path in tried if path.is_file()), None)
        if found is None:
            raise BadInput(
                f"{file} names the image {name or entry['id']}, and {tried[0]} does not exist; put the images "
                "into a folder with the split's name beside the annotations, or name their folder"
            )
        paths.append(found)
    return paths


def parsed(name: str, values: Any, where: str) -> tuple[DetectionSet, Broken]:
    """Parse a set in COCO's or LVIS's form, without finding its images: the set, and the broken boxes.

    Raises:
        BadInput: as `read_coco`.
    """
    images, annotations, categories = _lists(values, where)
    classes = [str(one["name"]).replace("_", " ").strip() for one in categories]
    distinct(classes, where)
    index = {one["id"]: place for place, one in enumerate(categories)}
    place_of = {one["id"]: place for place, one in enumerate(images)}
    sizes = [_size(one, where) for one in images]
    objects: list[list[Box]] = [[] for _ in images]
    unsure: list[set[int]] = [set() for _ in images]
    broken = Broken()
    for number, one in enumerate(annotations):
        place, label = _place(place_of, one.get("image_id")), _place(index, one.get("category_id"))
        if place is None or label is None:
            cause = "unknown_image" if place is None else "unknown_category"
            broken.add(cause, _called(one, number))
        elif isinstance(box := _box(one, label, sizes[place]), str):
            broken.add(box, _called(one, number))
            unsure[place].add(label)
        else:
            objects[place].append(box)
    if not any(objects):
        raise BadInput(f"{where} has no usable box: {broken}; a bbox is [x, y, width, height] in pixels")
    of_lvis = all("frequency" in one for one in categories) and any("neg_category_ids" in one for one in images)
    return DetectionSet(
        name=name,
        classes=classes,
        category_ids=[one["id"] for one in categories],
        ids=[one["id"] for one in images],
        images=(),
        sizes=sizes,
        objects=objects,
        frequency=[str(one["frequency"]) for one in categories] if of_lvis else (),
        absent=_sets(images, "neg_category_ids", index, where) if of_lvis else (),
        partial=_sets(images, "not_exhaustive_category_ids", index, where) if of_lvis else (),
        labelled=_labelled(values, index, where),
        unsure=list(map(frozenset, unsure)),
        file_names=[str(one.get("file_name") or one["id"]) for one in images],
    ), broken


def _lists(values: Any, where: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]], list[dict[str, Any]]]:
    """The lists of images, annotations and categories.

    Raises:
        BadInput: a list is missing or empty, or its entries lack fields that they must have.
    """
    form = "images (id, width, height), annotations (image_id, category_id, bbox) and categories (id, name)"
    found = []
    for key, must in (("images", {"id", "width", "height"}), ("annotations", set()), ("categories", {"id", "name"})):
        one = values.get(key) if isinstance(values, dict) else None
        if not isinstance(one, list) or not all(isinstance(entry, dict) for entry in one):
            raise BadInput(f"{where} has no list of {key}; COCO's form has {form}")
        if not one:
            told = "it has no boxes to learn from or to score" if key == "annotations" else f"it has no {key}"
            raise BadInput(f"{where}: {told}; COCO's form has {form}")
        _complete(one, key, must, where)
        found.append(one)
    return found[0], found[1], found[2]


def _complete(entries: Sequence[Mapping[str, Any]], key: str, must: set[str], where: str) -> None:
    """Check that the entries of a list are complete.

    Raises:
        BadInput: an entry lacks a field of `must`, or its id is no id or is used twice.
    """
    if lacking := next((one for one in entries if not must <= one.keys() or not one.get("name", "x")), None):
        gone = sorted(must - lacking.keys()) or ["name"]
        raise BadInput(f"{where}: an entry of {key} has no {gone[0]}: {str(lacking)[:80]}; add it")
    if not must:
        return
    if odd := next((one for one in entries if not isinstance(one["id"], int | str)), None):
        raise BadInput(
            f"{where}: an entry of {key} has the id {str(odd['id'])[:40]}; an id must be a whole number or text"
        )
    if len(counts := Counter(one["id"] for one in entries)) < len(entries):
        raise BadInput(f"{where}: two {key} have the id {counts.most_common(1)[0][0]}; give each its own")


def _size(image: Mapping[str, Any], where: str) -> tuple[int, int]:
    """(width, height) of an image as its entry says.

    Raises:
        BadInput: these are no numbers of pixels.
    """
    sides = image["width"], image["height"]
    if not all(_is_number(side) and side >= 1 and int(side) == side for side in sides):
        raise BadInput(
            f"{where}: image {image['id']} has the width {str(sides[0])[:40]} and the height {str(sides[1])[:40]}; "
            "both must be whole numbers of pixels"
        )
    return int(sides[0]), int(sides[1])


def _is_number(value: Any) -> bool:
    """Whether a value of JSON is a finite number that fits a float."""
    try:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:  # a whole number of hundreds of digits
        return False


def _place(places: Mapping[Any, int], number: Any) -> int | None:
    """The place of the entry with an id; None if no entry has it, or if it is no id."""
    return places.get(number) if isinstance(number, int | float | str) else None


def _box(one: Mapping[str, Any], label: int, size: tuple[int, int]) -> Box | str:
    """The box of an annotation, or what is wrong with it."""
    given = one.get("bbox")
    if not isinstance(given, list) or len(given) != 4 or not all(map(_is_number, given)):
        return "no_box"
    x, y, width, height = map(float, given)
    if width <= 0 or height <= 0:
        return "empty"
    if min(x, y) < -SLACK or x + width > size[0] + SLACK or y + height > size[1] + SLACK:
        return "outside"
    area, crowd = one.get("area"), one.get("iscrowd") or 0
    if area is not None and not _is_number(area):
        return "no_area"
    if crowd not in (0, 1, "0", "1"):
        return "no_crowd"
    return Box(label, x, y, width, height, width * height if area is None else float(area), int(crowd) == 1)


def _called(one: Mapping[str, Any], number: int) -> str:
    return f"annotation {one['id']}" if "id" in one else f"annotation number {number}"


def _sets(images: Sequence[Mapping[str, Any]], key: str, index: Mapping[int, int], where: str) -> list[frozenset[int]]:
    """The classes that each image lists under a key; ids of no category are left out.

    Raises:
        BadInput: an image has no list there.
    """
    given = [(image["id"], image.get(key, [])) for image in images]
    if odd := next((f"{key} of image {number}" for number, own in given if not isinstance(own, list)), None):
        raise BadInput(f"{where}: {odd} is no list; it must hold ids of categories, e.g. [1, 3], or be []")
    found = ([_place(index, one) for one in own] for _, own in given)
    return [frozenset(label for label in own if label is not None) for own in found]


def _labelled(values: Mapping[str, Any], index: Mapping[int, int], where: str) -> frozenset[int] | None:
    """The only classes that are labelled; None if all are.

    Raises:
        BadInput: the file's entry is no list of its categories.
    """
    info = values.get("info")
    only = info.get("voc_labelled_category_ids") if isinstance(info, dict) else None
    if only is None:
        return None
    found = [_place(index, one) for one in only] if isinstance(only, list) else []
    if not found or None in found:
        raise BadInput(
            f"{where}: info.voc_labelled_category_ids {str(only)[:40]} is no list of ids of its categories, for "
            f"example [{next(iter(index))}]"
        )
    return frozenset(label for label in found if label is not None)


def read_training(place: Path, images: Path | None = None) -> tuple[DetectionSet, Broken]:
    """Read the set that a run learns from: the set without its broken boxes, and the broken boxes.

    Args:
        place: a file in COCO's or LVIS's form, or a folder: its training part.
        images: folder of the images that a file names; None: beside the annotations.

    Raises:
        BadInput: it is neither; see `read_coco`.
    """
    return read_folder(place, "train") if place.is_dir() else read_coco(place.stem, place, images)


def read_folder(place: Path, split: str) -> tuple[DetectionSet, Broken]:
    """Read a part of a folder in COCO's, YOLO's or VOC's layout: the set without broken boxes, and the broken boxes.

    Raises:
        BadInput: the folder has none of these layouts; see `read_coco`.
    """
    file = place / "annotations" / f"instances_{split}.json"
    if file.is_file():
        return read_coco(place.name, file)
    if is_yolo(place) or is_voc(place):
        values, paths = (yolo if is_yolo(place) else voc)(place, split)
        data, broken = parsed(place.name, values, str(place))
        if gone := next((path for path in paths if not path.is_file()), None):
            raise BadInput(f"{place} has boxes of {gone.name}, and {gone} does not exist; put the image there")
        return replace(data, images=Lazy(paths, read_image), files=paths), broken
    raise BadInput(
        f"{place} holds no boxes; add annotations/instances_{split}.json (COCO's form), data.yaml with images/ "
        "and labels/ (YOLO), or Annotations/ with JPEGImages/ (VOC)"
    )
