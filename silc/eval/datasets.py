"""Labelled folders, read lazily: only file names and captions are held, pixels are decoded when asked for.

    <root>/classification/<set>/classes.txt  {train,test}/<class folder>/*   names in the order of the sorted folders
    <root>/retrieval/<set>/captions.json     [{"image": "images/x.jpg", "captions": ["...", ...]}, ...]
    <root>/segmentation/<set>/classes.txt    images/<id>.*  labels/<id>.png  8-bit: line of classes.txt, 255 ignored

The evaluators take the three dataclasses below, so data that is not in files (generated scenes) is evaluated alike.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, overload

import numpy as np
from PIL import Image

from silc.images import BadImage, decode_rgb
from silc.types import BadInput

if TYPE_CHECKING:
    from numpy.typing import NDArray

KINDS = ("classification", "retrieval", "segmentation")
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff")
IGNORE = 255
"""Label of pixels that count neither as truth nor as prediction."""


@dataclass(frozen=True)
class ClassificationSet:
    """Images with one class each."""

    name: str
    split: str
    classes: Sequence[str]  # C names
    images: Sequence[Image.Image]  # N RGB images
    labels: Sequence[int]  # N, each in [0, C)


@dataclass(frozen=True)
class RetrievalSet:
    """Images with one or more captions each."""

    name: str
    images: Sequence[Image.Image]  # N RGB images
    captions: Sequence[Sequence[str]]  # N lists, none empty


@dataclass(frozen=True)
class SegmentationSet:
    """Images with a class per pixel. `labels` are as stored; `truth` is what is scored."""

    name: str
    classes: Sequence[str]  # C names, without the background
    ids: Sequence[str]  # N
    images: Sequence[Image.Image]  # N RGB images
    labels: Sequence[NDArray[Any]]  # N arrays [H, W]
    background_ignored: bool = False
    """Whether label 0 is a background that is not scored: 0 becomes 255 and the others move down by one (VOC-20)."""

    def __len__(self) -> int:
        return len(self.ids)

    def example(self, index: int) -> tuple[Image.Image, NDArray[np.int64]]:
        """Image and truth [H, W] of one picture; truth is a class in [0, C) or 255.

        Raises:
            BadInput: image and label differ in size, or a label is outside the class list.
        """
        image, label = self.images[index], np.asarray(self.labels[index]).astype(np.int64)
        name = f"{self.name}/{self.ids[index]}"
        if label.shape != (image.height, image.width):
            raise BadInput(
                f"{name}: the image is {image.width} x {image.height} but its label has shape {list(label.shape)}; "
                f"needed is [{image.height}, {image.width}], one number per pixel"
            )
        stored = len(self.classes) + self.background_ignored
        outside = np.unique(label[(label != IGNORE) & ((label < 0) | (label >= stored))])
        if outside.size:
            raise BadInput(
                f"{name}: label {outside[0]} is outside the {stored} classes of classes.txt (0 to {stored - 1}, "
                f"{IGNORE} is ignored); add the missing names or correct the label"
            )
        return image, reduce_zero_label(label) if self.background_ignored else label


def reduce_zero_label(label: NDArray[np.int64]) -> NDArray[np.int64]:
    """Ignore class 0 and move the others down by one, as mmseg does: [0, 1, 150, 255] -> [255, 0, 149, 255]."""
    return np.where((label == 0) | (label == IGNORE), IGNORE, label - 1)


class Found(NamedTuple):
    """A data set on disk that was found but not read."""

    kind: str
    name: str
    path: Path


def discover(root: str | Path) -> list[Found]:
    """The data sets under a root folder, by kind and then by name.

    Raises:
        BadInput: no such folder, or nothing in it.
    """
    if not root:
        raise BadInput(
            "no data to evaluate on: give --root (eval.root in a recipe), a folder with classification/, retrieval/ or segmentation/"
        )
    root = Path(root)
    found = [
        Found(kind, path.name, path)
        for kind in KINDS
        if (root / kind).is_dir()
        for path in sorted((root / kind).iterdir())
        if path.is_dir() and not path.name.startswith(".")
    ]
    if not found:
        raise BadInput(
            f"{root} holds no data set; needed are folders like {root}/classification/<set>, retrieval/<set>, ..."
        )
    return found


def read_classification(folder: Path, split: str = "test") -> ClassificationSet:
    """Read `classes.txt` and the file names of one split.

    Raises:
        BadInput: something is missing, or class folders and names do not match in number.
    """
    classes = _lines(folder / "classes.txt")
    folders = sorted(path for path in _listing(folder / split) if path.is_dir())
    if len(folders) != len(classes):
        raise BadInput(
            f"{folder / split} has {len(folders)} class folders, {folder / 'classes.txt'} has {len(classes)} names; "
            "needed is one name per folder, in the order of the sorted folders"
        )
    # A folder may be empty: a name that is only there to be confused with.
    files = [(path, label) for label, inside in enumerate(folders) for path in _images_in(inside)]
    if not files:
        raise BadInput(f"{folder / split} holds no images ({', '.join(SUFFIXES)})")
    return ClassificationSet(
        folder.name, split, classes, ImageFiles([path for path, _ in files]), [label for _, label in files]
    )


def read_retrieval(folder: Path) -> RetrievalSet:
    """Read `captions.json`.

    Raises:
        BadInput: the file, an image or its captions are missing.
    """
    file = folder / "captions.json"
    try:
        entries = json.loads(_text(file))
        pairs = [(folder / entry["image"], [str(caption) for caption in entry["captions"]]) for entry in entries]
    except (ValueError, KeyError, TypeError) as error:
        raise BadInput(
            f'{file} must be a JSON list of {{"image": file, "captions": [text, ...]}}: {error!r}'
        ) from error
    for path, captions in pairs:
        if not captions or not all(caption.strip() for caption in captions):
            raise BadInput(f"{file}: {path.name} has no caption or an empty one; remove the entry or add its text")
        if not path.is_file():
            raise BadInput(f"{file} names {path}, which does not exist")
    if not pairs:
        raise BadInput(f"{file} lists no images")
    return RetrievalSet(folder.name, ImageFiles([path for path, _ in pairs]), [captions for _, captions in pairs])


def read_segmentation(folder: Path) -> SegmentationSet:
    """Read `classes.txt` and match the file names of images and labels.

    A first class called "background" is ignored, as in VOC-20.

    Raises:
        BadInput: something is missing.
    """
    classes = _lines(folder / "classes.txt")
    images = _image_files(folder / "images")
    labels = [folder / "labels" / f"{path.stem}.png" for path in images]
    for image, label in zip(images, labels, strict=True):
        if not label.is_file():
            raise BadInput(f"{image} has no label; needed is {label}")
    background = classes[0] == "background"
    return SegmentationSet(
        name=folder.name,
        classes=classes[background:],
        ids=[path.stem for path in images],
        images=ImageFiles(images),
        labels=LabelFiles(labels),
        background_ignored=background,
    )


class ImageFiles(Sequence[Image.Image]):
    """RGB images of files, decoded at every access."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = paths

    def __len__(self) -> int:
        return len(self.paths)

    @overload
    def __getitem__(self, index: int) -> Image.Image: ...
    @overload
    def __getitem__(self, index: slice) -> ImageFiles: ...
    def __getitem__(self, index: int | slice) -> Image.Image | ImageFiles:
        if isinstance(index, slice):
            return ImageFiles(self.paths[index])
        path = self.paths[index]
        try:
            return decode_rgb(path.read_bytes())
        except (OSError, BadImage) as error:
            raise BadInput(f"cannot read the image {path}: {error}") from error


class LabelFiles(Sequence["NDArray[Any]"]):
    """Label arrays [H, W] of PNG files, decoded at every access; palette indices are kept as they are."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = paths

    def __len__(self) -> int:
        return len(self.paths)

    @overload
    def __getitem__(self, index: int) -> NDArray[Any]: ...
    @overload
    def __getitem__(self, index: slice) -> LabelFiles: ...
    def __getitem__(self, index: int | slice) -> NDArray[Any] | LabelFiles:
        if isinstance(index, slice):
            return LabelFiles(self.paths[index])
        path = self.paths[index]
        try:
            with Image.open(path, formats=["PNG"]) as image:
                return np.array(image)
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            raise BadInput(f"cannot read the label {path}: {error}") from error


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise BadInput(f"{file} is missing") from None
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"cannot read {file}: {error}") from error


def _lines(file: Path) -> list[str]:
    lines = [line.strip() for line in _text(file).splitlines() if line.strip()]
    if not lines:
        raise BadInput(f"{file} is empty; needed is one class name per line")
    return lines


def _listing(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise BadInput(f"{folder} is missing")
    return [path for path in folder.iterdir() if not path.name.startswith(".")]


def _images_in(folder: Path) -> list[Path]:
    return sorted(path for path in _listing(folder) if path.suffix.lower() in SUFFIXES)


def _image_files(folder: Path) -> list[Path]:
    files = _images_in(folder)
    if not files:
        raise BadInput(f"{folder} holds no images ({', '.join(SUFFIXES)})")
    return files
