"""Labelled folders, read lazily: only file names and captions are held, pixels are decoded when asked for.

    <root>/classification/<set>/classes.txt  {train,test}/<class folder>/*   names in the order of the sorted folders
    <root>/retrieval/<set>/captions.json     [{"image": "images/x.jpg", "captions": ["...", ...]}, ...]
    <root>/segmentation/<set>/classes.txt    images/<id>.*  labels/<id>.png  8-bit: line of classes.txt, 255 ignored

Sets in the layouts their authors publish are read by `layouts.py`. The evaluators take the three dataclasses below,
so data that is not in files (generated scenes) is evaluated alike.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar, overload

import numpy as np
from PIL import Image

from silc.images import BadImage, decode_rgb
from silc.types import BadInput

if TYPE_CHECKING:
    from numpy.typing import NDArray

K = TypeVar("K")
T = TypeVar("T")
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
    templates: Sequence[str] = ()
    """Prompts that come with the data set, with "{}" where the name goes."""
    files: Sequence[Path] = ()
    """What is read; empty if it is not in files."""


@dataclass(frozen=True)
class RetrievalSet:
    """Images with one or more captions each."""

    name: str
    images: Sequence[Image.Image]  # N RGB images
    captions: Sequence[Sequence[str]]  # N lists, none empty
    files: Sequence[Path] = ()
    """What is read; empty if it is not in files."""


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
    files: Sequence[Path] = ()
    """What is read; empty if it is not in files."""

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
                f"{name}: label {outside[0]} is outside its {stored} classes (0 to {stored - 1}, {IGNORE} is ignored); "
                "add the missing names to the class list or correct the label"
            )
        return image, reduce_zero_label(label) if self.background_ignored else label


def reduce_zero_label(label: NDArray[np.int64]) -> NDArray[np.int64]:
    """Ignore class 0 and move the others down by one, as mmseg does: [0, 1, 150, 255] -> [255, 0, 149, 255]."""
    return np.where((label == 0) | (label == IGNORE), IGNORE, label - 1)


@dataclass(frozen=True)
class Source(Generic[T]):
    """A data set under a root folder, found there or not; nothing is read yet."""

    kind: Literal["classification", "retrieval", "segmentation"]
    name: str
    needs: Sequence[Path]
    """Files and folders that must be there."""
    read: Callable[[], T]
    read_train: Callable[[], T] | None = None
    """Its labelled training images, for few-shot classification; they need `train_needs`."""
    train_needs: Sequence[Path] = ()


def folders(root: Path) -> list[Source[Any]]:
    """The labelled folders under a root, by kind and then by name."""
    readers: dict[Any, Callable[[Path], Source[Any]]] = {
        "classification": _classification_source,
        "retrieval": lambda path: Source("retrieval", path.name, [path], partial(read_retrieval, path)),
        "segmentation": lambda path: Source("segmentation", path.name, [path], partial(read_segmentation, path)),
    }
    return [
        source(path)
        for kind, source in readers.items()
        if (root / kind).is_dir()
        for path in sorted((root / kind).iterdir())
        if path.is_dir() and not path.name.startswith(".")
    ]


def _classification_source(path: Path) -> Source[ClassificationSet]:
    read = partial(read_classification, path)
    return Source("classification", path.name, [path], read, partial(read, "train"), [path / "train"])


def read_classification(folder: Path, split: str = "test") -> ClassificationSet:
    """Read `classes.txt` and the file names of one split.

    Raises:
        BadInput: something is missing, or class folders and names do not match in number.
    """
    classes = lines_of(folder / "classes.txt")
    return class_folders(folder / split, folder.name, split, classes)


def class_folders(folder: Path, name: str, split: str, classes: Sequence[str]) -> ClassificationSet:
    """Images in one folder per class; classes are in the order of the sorted folders.

    Raises:
        BadInput: there are not as many folders as classes, or no images.
    """
    inside = sorted(path for path in _listing(folder) if path.is_dir())
    if len(inside) != len(classes):
        raise BadInput(
            f"{folder} has {len(inside)} class folders for {len(classes)} class names; "
            "needed is one name per folder, in the order of the sorted folders"
        )
    # A folder may be empty: a name that is only there to be confused with.
    found = [(path, label) for label, own in enumerate(inside) for path in images_in(own)]
    if not found:
        raise BadInput(f"{folder} holds no images ({', '.join(SUFFIXES)})")
    files = [path for path, _ in found]
    return ClassificationSet(name, split, classes, Lazy(files, read_image), [label for _, label in found], files=files)


def read_retrieval(folder: Path) -> RetrievalSet:
    """Read `captions.json`.

    Raises:
        BadInput: the file, an image or its captions are missing.
    """
    file = folder / "captions.json"
    try:
        entries = json.loads(text_of(file))
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
    return captioned(folder.name, pairs)


def captioned(name: str, pairs: Sequence[tuple[Path, Sequence[str]]]) -> RetrievalSet:
    """A retrieval set of image files and their captions."""
    files = [path for path, _ in pairs]
    return RetrievalSet(name, Lazy(files, read_image), [captions for _, captions in pairs], files=files)


def read_segmentation(folder: Path) -> SegmentationSet:
    """Read `classes.txt` and match the file names of images and labels.

    A first class called "background" is ignored, as in VOC-20.

    Raises:
        BadInput: something is missing.
    """
    classes = lines_of(folder / "classes.txt")
    background = classes[0] == "background"
    images = images_in(folder / "images")
    pairs = [(path, folder / "labels" / f"{path.stem}.png") for path in images]
    return labelled(folder.name, classes[background:], pairs, background_ignored=background)


def labelled(
    name: str,
    classes: Sequence[str],
    pairs: Sequence[tuple[Path, Path]],
    *,
    background_ignored: bool,
    read: Callable[[Path], NDArray[Any]] | None = None,
) -> SegmentationSet:
    """A segmentation set of image files and their label files.

    Raises:
        BadInput: there are none, or a file is missing.
    """
    if not pairs:
        raise BadInput(f"{name}: no images; needed are files ending in {', '.join(SUFFIXES)}")
    for image, label in pairs:
        if not image.is_file():
            raise BadInput(f"{name}: the image {image} is missing")
        if not label.is_file():
            raise BadInput(f"{image} has no label; needed is {label}")
    return SegmentationSet(
        name=name,
        classes=classes,
        ids=[image.stem for image, _ in pairs],
        images=Lazy([image for image, _ in pairs], read_image),
        labels=Lazy([label for _, label in pairs], read or read_label),
        background_ignored=background_ignored,
        files=[file for pair in pairs for file in pair],
    )


class Lazy(Sequence[T], Generic[K, T]):
    """What `read` makes of each key, made anew at every access: a list of images that holds file names only."""

    def __init__(self, keys: Sequence[K], read: Callable[[K], T]) -> None:
        self.keys, self.read = keys, read

    def __len__(self) -> int:
        return len(self.keys)

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> Lazy[K, T]: ...
    def __getitem__(self, index: int | slice) -> T | Lazy[K, T]:
        return Lazy(self.keys[index], self.read) if isinstance(index, slice) else self.read(self.keys[index])


def read_image(path: Path) -> Image.Image:
    """RGB image of a file.

    Raises:
        BadInput: it cannot be read or decoded.
    """
    try:
        return decode_rgb(path.read_bytes())
    except (OSError, BadImage) as error:
        raise BadInput(f"cannot read the image {path}: {error}") from error


def read_label(path: Path) -> NDArray[Any]:
    """Label array [H, W] of a PNG file; palette indices are kept as they are.

    Raises:
        BadInput: it cannot be read or decoded.
    """
    try:
        with Image.open(path, formats=["PNG"]) as image:
            return np.array(image)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise BadInput(f"cannot read the label {path}: {error}") from error


def text_of(file: Path) -> str:
    """A UTF-8 file's text.

    Raises:
        BadInput: it is missing or unreadable.
    """
    try:
        return file.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise BadInput(f"{file} is missing") from None
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"cannot read {file}: {error}") from error


def lines_of(file: Path) -> list[str]:
    """A file's lines, stripped; empty ones are left out.

    Raises:
        BadInput: it is missing or empty.
    """
    lines = [line.strip() for line in text_of(file).splitlines() if line.strip()]
    if not lines:
        raise BadInput(f"{file} is empty; needed is one class name per line")
    return lines


def _listing(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise BadInput(f"{folder} is missing")
    return [path for path in folder.iterdir() if not path.name.startswith(".")]


def images_in(folder: Path) -> list[Path]:
    """Image files of a folder, sorted by name.

    Raises:
        BadInput: no such folder.
    """
    return sorted(path for path in _listing(folder) if path.suffix.lower() in SUFFIXES)
