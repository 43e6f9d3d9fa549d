"""Labelled folders, read lazily: only file names and captions are held, pixels are decoded when asked for.

    <root>/classification/<set>/classes.txt  {train,test}/<class folder>/*   folders called as classes: `order_of`
    <root>/retrieval/<set>/captions.json     [{"image": "images/x.jpg", "captions": ["...", ...]}, ...], or a table
    <root>/segmentation/<set>/classes.txt    images/<id>.*  labels/<id>.png  line of classes.txt (see IGNORED)
                                             train/images   train/labels    the same, to learn from

Sets in the layouts their authors publish are read by `layouts.py`. The evaluators take the three dataclasses below,
so data that is not in files (generated scenes) is evaluated alike.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar, overload

import numpy as np
from PIL import Image

from silc.data.captions import NoCaption, usable
from silc.data.tables import read_rows, table_of
from silc.errors import BadInput
from silc.images import READ, UNREAD, BadImage, decode_rgb, is_image_name
from silc.regular import regular

if TYPE_CHECKING:
    from numpy.typing import NDArray

K = TypeVar("K")
T = TypeVar("T")
log = logging.getLogger(__name__)
IGNORED = (255, 65_535, 2**31 - 1)
"""Labels of pixels that are not scored: the first of these that is no class. So 8-bit maps of up to 255 classes ignore
255, 16-bit maps of more ignore 65535."""


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
    """Whether label 0 is a background that is not scored: 0 becomes `ignore`, the others move down by one (VOC-20)."""
    files: Sequence[Path] = ()
    """What is read; empty if it is not in files."""

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def ignore(self) -> int:
        """The label that is not scored, stored and in the truth: 255, or 65535 where 255 is a class."""
        return next(value for value in IGNORED if value >= len(self.classes) + self.background_ignored)

    def example(self, index: int) -> tuple[Image.Image, NDArray[np.int64]]:
        """Image and truth [H, W] of one picture; truth is a class in [0, C) or `ignore`.

        Raises:
            BadInput: image and label differ in size, or a label is outside the class list.
        """
        image, label = self.images[index], np.asarray(self.labels[index]).astype(np.int64)
        name = f"{self.name}/{self.ids[index]}"
        if label.shape != (image.height, image.width):
            raise BadInput(
                f"{name}: the image is {image.width} x {image.height} but its label has shape {list(label.shape)}; "
                f"needed is [{image.height}, {image.width}], one number per pixel{_turned_against(image, label)}"
            )
        stored, ignore = len(self.classes) + self.background_ignored, self.ignore
        outside = np.unique(label[(label != ignore) & ((label < 0) | (label >= stored))])
        if outside.size:
            raise BadInput(
                f"{name}: label {outside[0]} is outside its {stored} classes (0 to {stored - 1}, {ignore} is ignored); "
                "add the missing names to the class list or correct the label"
            )
        return image, reduce_zero_label(label, ignore) if self.background_ignored else label


def _turned_against(image: Image.Image, label: NDArray[np.int64]) -> str:
    """What to try where a label has the image's sides, but swapped."""
    if label.shape != (image.width, image.height):
        return ""
    return (
        ". One is turned against the other: a label map is drawn on the photograph as it is stored, or as viewers turn "
        "it by its EXIF orientation; use --exif-orientation ignore or apply (eval.exif_orientation)"
    )


def reduce_zero_label(label: NDArray[np.int64], ignore: int = 255) -> NDArray[np.int64]:
    """Ignore class 0 and move the others down by one, as mmseg does: [0, 1, 150, 255] -> [255, 0, 149, 255]."""
    return np.where((label == 0) | (label == ignore), ignore, label - 1)


@dataclass(frozen=True)
class Source(Generic[T]):
    """A data set under a root folder, found there or not; nothing is read yet."""

    kind: Literal["classification", "retrieval", "segmentation"]
    name: str
    needs: Sequence[Path]
    """Files and folders that must be there."""
    read: Callable[[], T]
    read_train: Callable[[], T] | None = None
    """Its labelled training images, for few-shot classification and probes; they need `train_needs`."""
    train_needs: Sequence[Path] = ()


def folders(root: Path) -> list[Source[Any]]:
    """The labelled folders under a root, by kind and then by name."""
    readers: dict[Any, Callable[[Path], Source[Any]]] = {
        "classification": _classification_source,
        "retrieval": lambda path: Source("retrieval", path.name, [path], partial(read_retrieval, path)),
        "segmentation": _segmentation_source,
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


def _segmentation_source(path: Path) -> Source[SegmentationSet]:
    read = partial(read_segmentation, path)
    return Source("segmentation", path.name, [path], read, partial(read, "train"), [path / "train"])


def read_classification(folder: Path, split: str = "test") -> ClassificationSet:
    """Read `classes.txt` and the file names of one split.

    Raises:
        BadInput: something is missing, or class folders and names do not match.
    """
    classes = distinct(lines_of(folder / "classes.txt"), f"{folder / 'classes.txt'}")
    return class_folders(folder / split, folder.name, split, classes)


def class_folders(folder: Path, name: str, split: str, classes: Sequence[str]) -> ClassificationSet:
    """Images in one folder per class; see `order_of` for which class that is.

    Raises:
        BadInput: there are not as many folders as classes, no images, images beside or below the class folders, or it
            is not clear which folder is which class.
    """
    listed = _listing(folder)
    inside = sorted(path for path in listed if path.is_dir())
    if beside := next((path for path in sorted(listed) if is_image_name(path.name) and path.is_file()), None):
        raise BadInput(f"{beside} lies in no class folder; move it into one, or out of {folder}")
    if len(inside) != len(classes):
        raise BadInput(
            f"{folder} has {len(inside)} class folders for {len(classes)} class names; needed is one folder per name"
        )
    places = order_of([path.name for path in inside], classes, folder)
    # A folder may be empty: a name that is only there to be confused with.
    own = dict(zip(places, inside, strict=True))
    found = [(path, label) for label in range(len(classes)) for path in _images_of_class(own[label])]
    if not found:
        raise BadInput(f"{folder} holds no images ({', '.join(READ)})")
    files = [path for path, _ in found]
    return ClassificationSet(name, split, classes, Lazy(files, read_image), [label for _, label in found], files=files)


def order_of(folders: Sequence[str], classes: Sequence[str], where: Path | str) -> list[int]:
    """The class of each class folder, a permutation of the C classes.

    By name where folders are called as the classes are (capitals, `_` and `-` aside); by number where all folders are
    numbers (from 0 or 1 on); else in the order of the sorted folders, as wnids are.

    Raises:
        BadInput: some names are equal and others not, numbers are missing, or it is a matter of taste how to sort.
    """
    for spelt in (str, _plain):
        own, known = [spelt(name) for name in folders], {spelt(name): place for place, name in enumerate(classes)}
        if len(known) == len(set(own)) == len(own) and known.keys() == set(own):
            return [known[name] for name in own]
    if known.keys() & set(own):
        stranger = next((name for name in folders if _plain(name) not in known), folders[0])
        raise BadInput(
            f"{where}: some class folders are called as classes are, but no one class is called as the folder "
            f"'{stranger}'; needed are equal names, or numbers in the order of the class names"
        )
    if all(name.isdecimal() for name in folders):
        numbers = [int(name) for name in folders]
        for first in (0, 1):
            if sorted(numbers) == list(range(first, first + len(numbers))):
                return [number - first for number in numbers]
        raise BadInput(
            f"{where}: the class folders are numbers from {min(numbers)} to {max(numbers)}; needed are 0 to "
            f"{len(numbers) - 1} or 1 to {len(numbers)}, each once, or folders that are called as the classes are"
        )
    ordered = sorted(folders)
    for other in (sorted(folders, key=str.casefold), sorted(folders, key=_naturally)):
        if ordered != other:
            one, two = next(pair for pair in zip(ordered, other, strict=True) if pair[0] != pair[1])
            raise BadInput(
                f"{where}: it is not clear whether the class folder '{one}' or '{two}' comes first, so which class "
                "each is; call the folders as the classes are called, or pad their numbers with zeros"
            )
    places = {name: place for place, name in enumerate(ordered)}
    return [places[name] for name in folders]


def _plain(name: str) -> str:
    return " ".join(re.sub("[_-]", " ", name.casefold()).split())


def _naturally(name: str) -> list[tuple[int, str]]:
    """A key by which 'class2' comes before 'class10'."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)]


def _images_of_class(folder: Path) -> list[Path]:
    with os.scandir(folder) as entries:
        below = [entry.name for entry in entries if entry.is_dir() and not entry.name.startswith((".", "__"))]
    for name in sorted(below):
        if images_below(folder / name):
            raise BadInput(f"{folder / name} holds images below a class folder; move them up into {folder}")
    return images_in(folder)


def distinct(names: Sequence[str], where: str) -> Sequence[str]:
    """The same names.

    Raises:
        BadInput: one comes twice.
    """
    if len(set(names)) != len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise BadInput(f"{where} names the class '{twice}' twice; each class needs a name of its own")
    return names


def read_retrieval(folder: Path) -> RetrievalSet:
    """Read `captions.json`, or another table of captions (`silc.data.tables`); rows of one image are put together.

    Raises:
        BadInput: the file, an image or its captions are missing.
    """
    file = folder / "captions.json"
    if not file.is_file() and folder.is_dir():
        file = table_of(folder) or file
    pairs = []
    for name, found in read_rows(file).captions.items():
        try:
            captions = usable(found)
        except NoCaption as error:
            raise BadInput(f"{file}: {name} {error}; remove the entry or mend it") from error
        if len(captions) < len(found):
            raise BadInput(f"{file}: {name} has an empty caption; remove it or add its text")
        if not (folder / name).is_file():
            raise BadInput(f"{file} names {folder / name}, which does not exist")
        pairs.append((folder / name, list(captions)))
    if not pairs:
        raise BadInput(f"{file} lists no images")
    return captioned(folder.name, pairs)


def captioned(name: str, pairs: Sequence[tuple[Path, Sequence[str]]]) -> RetrievalSet:
    """A retrieval set of image files and their captions."""
    files = [path for path, _ in pairs]
    return RetrievalSet(name, Lazy(files, read_image), [captions for _, captions in pairs], files=files)


def read_segmentation(folder: Path, split: str = "") -> SegmentationSet:
    """Read `classes.txt` and match the file names of images and labels, which are in the folder or in that of a split.

    A first class called "background" is ignored, as in VOC-20.

    Raises:
        BadInput: something is missing.
    """
    classes = distinct(lines_of(folder / "classes.txt"), f"{folder / 'classes.txt'}")
    background = classes[0] == "background"
    if background and len(classes) == 1:
        raise BadInput(
            f"{folder / 'classes.txt'} names the background alone, which is not scored; name the classes too"
        )
    images, labels = images_in(folder / split / "images"), folder / split / "labels"
    by_stem = (
        {path.stem: path for path in images_in(labels) if path.suffix.lower() == ".png"} if labels.is_dir() else {}
    )
    pairs = [(path, by_stem.get(path.stem, labels / f"{path.stem}.png")) for path in images]
    if surplus := by_stem.keys() - {path.stem for path in images}:
        log.warning(
            "%s: %d labels have no image and are not scored, %s.png for one", folder, len(surplus), min(surplus)
        )
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
        BadInput: there are none, a file is missing, or two images have one label.
    """
    if not pairs:
        raise BadInput(f"{name}: no images; needed are files ending in {', '.join(READ)}")
    seen: dict[Path, Path] = {}
    for image, label in pairs:
        if not image.is_file():
            raise BadInput(f"{name}: the image {image} is missing")
        if not label.is_file():
            raise BadInput(f"{image} has no label; needed is {label}")
        if label in seen:
            raise BadInput(f"{name}: {seen[label]} and {image} have the same label {label}; leave one of them out")
        seen[label] = image
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
        return decode_rgb(regular(path).read_bytes())
    except (OSError, BadImage) as error:
        raise BadInput(f"cannot read the image {path}: {error}") from error


STRETCHED = {"L;2": 85, "L;4": 17}
"""What Pillow multiplies greys of 2 and 4 bits by."""


def read_label(path: Path) -> NDArray[Any]:
    """Label array [H, W] of a PNG file; palette indices and greys of 1 to 16 bits are kept as they are.

    Raises:
        BadInput: it cannot be read or decoded.
    """
    try:
        with Image.open(regular(path), formats=["PNG"]) as image:
            stretched = STRETCHED.get(str(image.tile[0].args), 1) if image.tile else 1
            return np.array(image) // stretched if stretched > 1 else np.array(image)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise BadInput(f"cannot read the label {path}: {error}") from error


def text_of(file: Path) -> str:
    """A UTF-8 file's text, without a byte order mark.

    Raises:
        BadInput: it is missing or unreadable.
    """
    try:
        return regular(file).read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise BadInput(f"{file} is missing") from None
    except UnicodeDecodeError as error:
        raise BadInput(f"cannot read {file}: {error}; save it as UTF-8") from error
    except OSError as error:
        raise BadInput(f"cannot read {file}: {error.strerror}; check the path and its permissions") from error


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
    """Image files of a folder, sorted by name; hidden ones are none.

    Raises:
        BadInput: no such folder, or an image of a format that is not read.
    """
    found = sorted(path for path in _listing(folder) if is_image_name(path.name))
    for path in found:
        if path.suffix.lower().lstrip(".") in UNREAD:
            raise BadInput(
                f"{path} is of a format that is not read; convert it to one of {', '.join(READ)}, or remove it"
            )
    return found


def images_below(folder: Path) -> list[Path]:
    """Image files in a folder and all below it, of any format, in order; hidden files and folders are left out."""
    found = []
    for place, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith((".", "__MACOSX"))]
        found += [Path(place) / name for name in files if is_image_name(name)]
    return sorted(found)
