"""Boxes with one file per image: YOLO's lines of text and Pascal VOC's XML, read into COCO's form.

YOLO: `data.yaml` (names, and where train and val are: folders, or files that list images) or `classes.txt`;
images/SPLIT/1.jpg has labels/SPLIT/1.txt, one line per object: class, centre x, centre y, width, height, as fractions
of the image after its EXIF rotation; or class and the corners of a polygon, whose bounding box is taken. An image
without a label file has no object.

VOC: Annotations/1.xml and JPEGImages/1.jpg; ImageSets/Main/SPLIT.txt names the images of a split. Without any
list all are for training. Corners count from 1. Objects marked difficult count as crowds: neither right nor wrong.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import yaml
from PIL import Image

from silc.errors import BadInput
from silc.eval.files import distinct, images_in, lines_of, text_of
from silc.images import FORMATS, SIDEWAYS, is_image_name, orientation
from silc.regular import regular

YAML, CLASSES = "data.yaml", "classes.txt"
ANNOTATIONS = "Annotations"
TRAIN = "train"


def is_yolo(folder: Path) -> bool:
    """Whether a folder holds YOLO's labels."""
    return (folder / YAML).is_file() or ((folder / CLASSES).is_file() and (folder / "labels").is_dir())


def is_voc(folder: Path) -> bool:
    """Whether a folder holds VOC's annotations."""
    return (folder / ANNOTATIONS).is_dir()


def yolo(folder: Path, split: str) -> tuple[dict[str, Any], list[Path]]:
    """A split in COCO's form, and the file of each image.

    Raises:
        BadInput: no names, no such split, or a file that cannot be read.
    """
    values = _yaml(folder)
    names, files = _yolo_names(folder, values), _yolo_images(folder, values, split)
    images, annotations = list[dict[str, Any]](), list[dict[str, Any]]()
    for number, file in enumerate(files):
        width, height = size_of(file)
        images.append({"id": number, "file_name": file.name, "width": width, "height": height})
        label = _label_of(file, folder)
        for line in text_of(label).splitlines() if label.is_file() else ():
            if line.strip():
                own = {"id": f"{label.name}: {line.strip()[:60]}", "image_id": number}
                annotations.append(own | _yolo_box(line.split(), width, height))
    categories = [{"id": number, "name": name} for number, name in enumerate(names)]
    return {"images": images, "annotations": annotations, "categories": categories}, files


def voc(folder: Path, split: str) -> tuple[dict[str, Any], list[Path]]:
    """A split in COCO's form, and the file of each image.

    Raises:
        BadInput: no such split, no annotation, or a file that cannot be read.
    """
    place = folder / ANNOTATIONS
    stems = _voc_stems(folder, split)
    if not stems:
        raise BadInput(f"{place} holds no .xml file; each image needs one")
    images, annotations, files = list[dict[str, Any]](), list[dict[str, Any]](), list[Path]()
    for number, stem in enumerate(stems):
        file, tree = place / f"{stem}.xml", _xml(place / f"{stem}.xml")
        name = tree.findtext("filename") or f"{stem}.jpg"
        files.append(folder / "JPEGImages" / (name if is_image_name(name) else f"{stem}.jpg"))
        width, height = _whole(tree, "size/width", file), _whole(tree, "size/height", file)
        images.append({"id": number, "file_name": files[-1].name, "width": width, "height": height})
        for place_in_file, one in enumerate(tree.findall("object")):
            own = {"id": f"object {place_in_file} of {file.name}", "image_id": number}
            own |= {"category_id": (one.findtext("name") or "").strip(), "bbox": _voc_box(one)}
            annotations.append(own | {"iscrowd": int((one.findtext("difficult") or "0").strip() == "1")})
    names = sorted({one["category_id"] for one in annotations if one["category_id"]})
    own_names = folder / CLASSES
    names = list(distinct(lines_of(own_names), str(own_names))) if own_names.is_file() else names
    categories = [{"id": name, "name": name} for name in names]
    return {"images": images, "annotations": annotations, "categories": categories}, files


def _voc_stems(folder: Path, split: str) -> list[str]:
    """Names of a split's images. A folder without lists is only for training: a score would be on the same images."""
    listed = folder / "ImageSets" / "Main" / f"{split}.txt"
    if listed.is_file():
        return lines_of(listed, "image's name")
    if split == TRAIN and not any(listed.parent.glob("*.txt")):
        return sorted(path.stem for path in (folder / ANNOTATIONS).glob("*.xml"))
    raise BadInput(f"{listed} is missing; write the names of the images of {split!r} there, one per line, without .xml")


def size_of(file: Path) -> tuple[int, int]:
    """(width, height) of an image after its EXIF rotation; no pixel is decoded.

    Raises:
        BadInput: the file is no image.
    """
    try:
        with Image.open(regular(file), formats=FORMATS) as image:
            return image.size[::-1] if orientation(image) in SIDEWAYS else image.size
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise BadInput(f"cannot read the image {file}: {error}") from error


def _yaml(folder: Path) -> dict[str, Any]:
    file = folder / YAML
    try:
        values = yaml.safe_load(text_of(file)) if file.is_file() else {}
    except (yaml.YAMLError, RecursionError) as error:
        raise BadInput(f"cannot read {file}: {str(error).splitlines()[0]}") from error
    if not isinstance(values, dict):
        raise BadInput(f"{file} holds no fields; it needs `names: [cat, dog]`, `train:` and `val:`")
    return values


def _yolo_names(folder: Path, values: Mapping[str, Any]) -> Sequence[str]:
    given = values.get("names")
    if isinstance(given, dict) and sorted(given) == list(range(len(given))):
        given = [given[number] for number in range(len(given))]
    if given is None and (folder / CLASSES).is_file():
        given = lines_of(folder / CLASSES)
    if not isinstance(given, list) or not given or not all(isinstance(name, str) for name in given):
        raise BadInput(
            f"{folder / YAML} has no names of its classes; add `names: [cat, dog]`, where the first class is 0"
        )
    return distinct(given, str(folder / YAML))


def _yolo_images(folder: Path, values: Mapping[str, Any], split: str) -> list[Path]:
    """The images of a split: those that `data.yaml` names or, if it names none, those in images/SPLIT.

    Raises:
        BadInput: a named place does not exist, or the entry is neither text nor a list of texts.
    """
    said = values.get(split)
    if said is None:
        usual = [folder / "images" / split, folder / split / "images"]
        place = next((place for place in usual if place.is_dir()), None)
        if place is None:
            raise BadInput(
                f"{usual[0]} is missing; add it, or name the folder of the images of {split!r} in {folder / YAML}"
            )
        return images_in(place)
    named = said if isinstance(said, list) else [said]
    if not named or not all(isinstance(one, str) for one in named):
        raise BadInput(
            f"{folder / YAML} says {said!r} as its {split}; it must be a folder, a list of images, or several of them"
        )
    base = str(values.get("path") or ".")
    return [file for one in named for file in _images_of(folder, base, one, split)]


def _images_of(folder: Path, base: str, named: str, split: str) -> list[Path]:
    """The images of a place that `data.yaml` names: a folder, or a file with one image per line."""
    starts = [folder / base, folder, folder.parent / base]
    # Roboflow writes ../valid/images for the folder beside the file; Ultralytics reads it so.
    ways = [named, named.removeprefix("../")]
    place = next((start / way for way in ways for start in starts if (start / way).exists()), None)
    if place is None:
        raise BadInput(f"{folder / YAML} says {named!r} as its {split}, and {starts[0] / named} does not exist")
    return images_in(place) if place.is_dir() else _listed(place, folder)


def _listed(file: Path, folder: Path) -> list[Path]:
    """The images that a file names, relative to the file or to the set's folder."""
    found = []
    for line in lines_of(file, "image"):
        path = next((path for path in (file.parent / line, folder / line) if path.is_file()), None)
        if path is None:
            raise BadInput(f"{file} names the image {line}, and {file.parent / line} does not exist")
        found.append(path)
    return found


def _label_of(image: Path, folder: Path) -> Path:
    """The label file of an image: labels/train/1.txt for images/train/1.jpg.

    The last folder called images is replaced; if the image is in the set's folder, only folders below it count.
    """
    root, below = (folder, image.relative_to(folder)) if image.is_relative_to(folder) else (Path(), image)
    parts = list(below.parts)
    places = [place for place, part in enumerate(parts[:-1]) if part == "images"]
    if places:
        parts[places[-1]] = "labels"
    return (root / Path(*parts)).with_suffix(".txt")


def _yolo_box(words: Sequence[str], width: int, height: int) -> dict[str, Any]:
    """Category and box of a line; the box is None if the line is no label. (A box with a score is a prediction.)"""
    try:
        label, numbers = int(words[0]), [float(word) for word in words[1:]]
    except ValueError:
        return {"category_id": 0, "bbox": None}
    if len(numbers) == 4:
        x, y, w, h = numbers
        left, top = x - w / 2, y - h / 2
    elif len(numbers) >= 6 and len(numbers) % 2 == 0 and all(map(math.isfinite, numbers)):
        left, top = min(numbers[::2]), min(numbers[1::2])
        w, h = max(numbers[::2]) - left, max(numbers[1::2]) - top
    else:
        return {"category_id": label, "bbox": None}
    return {"category_id": label, "bbox": [left * width, top * height, w * width, h * height]}


def _xml(file: Path) -> ElementTree.Element:
    try:
        return ElementTree.fromstring(text_of(file))
    except ElementTree.ParseError as error:
        raise BadInput(f"{file} is no XML: {error}") from error


def _whole(tree: ElementTree.Element, path: str, file: Path) -> int:
    said = (tree.findtext(path) or "").strip()
    if not said.isdecimal() or int(said) < 1:
        raise BadInput(f"{file} says {said!r} as its {path.replace('/', ' ')}; it must be a number of pixels")
    return int(said)


def _voc_box(one: ElementTree.Element) -> list[float] | None:
    try:
        x0, y0, x1, y1 = (float(one.findtext(f"bndbox/{side}") or "") for side in ("xmin", "ymin", "xmax", "ymax"))
    except ValueError:
        return None
    return [x0 - 1, y0 - 1, x1 - x0 + 1, y1 - y0 + 1] if math.isfinite(x0 + y0 + x1 + y1) else None
