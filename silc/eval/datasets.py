"""Data sets for evaluators: a dataclass for each kind of data set, and `Source`, a data set's place under a root.

Memory holds only file names and captions; pixels are decoded when they are read. The readers are in `layouts/`. Data
that is not in files (generated scenes) is evaluated in the same way.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar, overload

import numpy as np

from silc.errors import BadInput

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL import Image

K = TypeVar("K")
T = TypeVar("T")
IGNORED = (255, 65_535, 2**31 - 1)
"""Label of pixels that are not scored: the first of these values that is no class. So 8-bit maps of up to 255 classes
ignore 255, and 16-bit maps of more classes ignore 65535."""

TURNED = (
    ". One is rotated against the other: a label map is drawn either on the stored photograph or on the one that "
    "viewers rotate by its EXIF orientation; use --exif-orientation ignore or apply (eval.exif_orientation)"
)


@dataclass(frozen=True)
class DataSet:
    """Base of all kinds of data set: the fields beside the N images and their truth."""

    name: str
    files: Sequence[Path] = field(default=(), kw_only=True)
    """Files that the set is read from; empty if it is not in files."""


@dataclass(frozen=True)
class ClassificationSet(DataSet):
    """Images with one class each."""

    split: str
    classes: Sequence[str]  # C names
    images: Sequence[Image.Image]  # N RGB images
    labels: Sequence[int]  # N, each in [0, C)
    templates: Sequence[str] = ()
    """Prompts that come with the data set, with "{}" where the name goes."""


@dataclass(frozen=True)
class RetrievalSet(DataSet):
    """Images with one or more captions each."""

    images: Sequence[Image.Image]  # N RGB images
    captions: Sequence[Sequence[str]]  # N lists, none empty


@dataclass(frozen=True)
class QuestionSet(DataSet):
    """Questions about images, and their answers."""

    images: Sequence[Image.Image]  # M RGB images
    about: Sequence[int]  # N, each in [0, M): the image that a question is about
    questions: Sequence[str]  # N
    answers: Sequence[Sequence[str]]  # N lists, none empty: the one answer, or one of each annotator
    types: Mapping[str, Sequence[str]]
    """Types of the questions [N], by the field's name in the file: `question_type`, `answer_type`."""

    def __len__(self) -> int:
        return len(self.questions)


@dataclass(frozen=True)
class SegmentationSet(DataSet):
    """Images with a class per pixel. `labels` are as stored; `truth` is what is scored."""

    classes: Sequence[str]  # C names, without the background
    ids: Sequence[str]  # N
    images: Sequence[Image.Image]  # N RGB images
    labels: Sequence[NDArray[Any]]  # N arrays [H, W]
    background_ignored: bool = False
    """Whether label 0 is a background that is not scored: 0 becomes `ignore`, the others move down by one (VOC-20)."""
    words: Sequence[Sequence[str]] = ()
    """C lists: the words for each class, if these are not just its name (`eval/names.py`)."""
    published: str = ""
    """Name of the list in `eval/classes` with the classes, without a background: the key in `names.LISTS`."""
    background_words: Sequence[str] = ()
    """If the first class is a background that is scored: names of what is usually there."""

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def ignore(self) -> int:
        """The label that is not scored, in the stored maps and in the truth: 255, or 65535 if 255 is a class."""
        return next(value for value in IGNORED if value >= len(self.classes) + self.background_ignored)

    def example(self, index: int) -> tuple[Image.Image, NDArray[np.int64]]:
        """Image and truth [H, W] of one picture; truth is a class in [0, C) or `ignore`.

        Raises:
            BadInput: image and label differ in size, or a label is outside the class list.
        """
        image, label = self.images[index], np.asarray(self.labels[index]).astype(np.int64)
        name = f"{self.name}/{self.ids[index]}"
        if label.shape != (image.height, image.width):
            turned = TURNED if label.shape == image.size else ""
            raise BadInput(
                f"{name}: the image is {image.width} x {image.height} but its label has shape {list(label.shape)}; "
                f"it must be [{image.height}, {image.width}], one number per pixel{turned}"
            )
        stored, ignore = len(self.classes) + self.background_ignored, self.ignore
        outside = np.unique(label[(label != ignore) & ((label < 0) | (label >= stored))])
        if outside.size:
            raise BadInput(
                f"{name}: label {outside[0]} is outside its {stored} classes (0 to {stored - 1}, {ignore} is ignored); "
                "add the missing names to the class list or correct the label"
            )
        return image, reduce_zero_label(label, ignore) if self.background_ignored else label


class Box(NamedTuple):
    """An object in an image, in pixels."""

    label: int  # index into the classes
    x: float  # of the upper left corner
    y: float
    width: float
    height: float
    area: float
    """Area of the object in pixels (COCO: of its mask). It decides whether the object is small, medium or large."""
    crowd: bool = False
    """Whether these are several objects in one box: a detection there is neither right nor wrong."""


class OtherSize(BadInput):
    """An image does not have the size that its boxes were drawn on."""


@dataclass(frozen=True)
class DetectionSet(DataSet):
    """Images with boxes."""

    classes: Sequence[str]  # C names
    category_ids: Sequence[int]  # C, what the file calls the classes
    ids: Sequence[int]  # N, what the file calls the images
    images: Sequence[Image.Image]  # N RGB images
    sizes: Sequence[tuple[int, int]]  # N, (width, height) of the images
    objects: Sequence[Sequence[Box]]  # N lists
    frequency: Sequence[str] = ()
    """Frequency of each class in LVIS: "r", "c" or "f"; empty in other sets. With LVIS, an image is scored only for the
    classes of its objects and those in `absent`."""
    absent: Sequence[frozenset[int]] = ()
    """For each image, classes that are known not to be in it (LVIS's `neg_category_ids`)."""
    partial: Sequence[frozenset[int]] = ()
    """For each image, classes of which not every object has a box (LVIS's `not_exhaustive_category_ids`)."""
    labelled: frozenset[int] | None = None
    """Classes whose objects have boxes; None: all classes. Nothing is known about objects of other classes."""
    unsure: Sequence[frozenset[int]] = ()
    """For each image, classes with a broken box: an object is there, but its place is not known."""
    file_names: Sequence[str] = ()
    """File names of the images, to show to people if the ids are numbers; empty: there are no file names."""

    def __len__(self) -> int:
        return len(self.ids)

    def called(self, index: int) -> str:
        """The name of an image that people know: its file name, or else its id."""
        return str((self.file_names or self.ids)[index])

    def image(self, index: int) -> Image.Image:
        """An image, checked to have the size that its boxes were drawn on.

        Raises:
            OtherSize: it has another size.
            BadInput: it cannot be read.
        """
        image, (width, height) = self.images[index], self.sizes[index]
        if image.size != (width, height):
            turned = TURNED.replace("a label map is", "boxes are") if image.size == (height, width) else ""
            raise OtherSize(
                f"{self.name}: image {self.called(index)} is {image.width} x {image.height}, and its boxes are for an "
                f"image of {width} x {height}; scale both to one size{turned}"
            )
        return image


Corners = tuple[float, float, float, float]
"""Left, top, right, bottom."""


def iou(one: Corners, other: Corners) -> float:
    """Intersection over union of two boxes; 0 where neither has an area.

    >>> iou((0, 0, 2, 2), (1, 1, 3, 3)), iou((0, 0, 1, 1), (2, 0, 3, 1))
    (0.14285714285714285, 0.0)
    """
    across, down = min(one[2], other[2]) - max(one[0], other[0]), min(one[3], other[3]) - max(one[1], other[1])
    both = max(0.0, across) * max(0.0, down)
    either = sum((right - left) * (bottom - top) for left, top, right, bottom in (one, other)) - both
    return both / either if either > 0 else 0.0


def reduce_zero_label(label: NDArray[np.int64], ignore: int = 255) -> NDArray[np.int64]:
    """Ignore class 0 and move the others down by one, as mmseg does: [0, 1, 150, 255] -> [255, 0, 149, 255]."""
    return np.where((label == 0) | (label == ignore), ignore, label - 1)


@dataclass(frozen=True)
class Source(Generic[T]):
    """A data set under a root folder, found there or not; nothing is read yet."""

    kind: str
    """A name of `layouts.KINDS`."""
    name: str
    needs: Sequence[Path]
    """Files and folders that must be there."""
    read: Callable[[], T]
    read_train: Callable[[], T] | None = None
    """Reads the labelled training images, for few-shot classification and probes; needs the files in `train_needs`."""
    train_needs: Sequence[Path] = ()
    prepared: str = ""
    """The NAME for `silc data prepare`, if the release must be decoded first; else empty."""


class Lazy(Sequence[T], Generic[K, T]):
    """A sequence that calls `read` on the key at every access: a list of images that holds only file names."""

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
