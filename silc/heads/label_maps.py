"""Images with label maps for training: opened by a folder's layout, read by workers, cropped into batches."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
import torch

from silc.batch import Broken
from silc.data.pairs import BadSample, Source
from silc.data.streams import stream
from silc.errors import BadInput
from silc.eval import suite
from silc.eval.layouts import label_maps
from silc.heads.augment import Example, augmented
from silc.images import BadImage

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL import Image
    from torch import Tensor

    from silc.data.loader import RankSamples
    from silc.eval.datasets import SegmentationSet

BLOCK = 1000
"""Images in a block, which is shuffled and read like a shard."""
CLASSES, SPLIT = "classes.txt", "train"


@dataclass(frozen=True)
class Labelled:
    """An image and a class for each of its pixels."""

    key: str
    image: Image.Image
    truth: NDArray[np.int64]  # [H, W]


class LabelledImages(Source[Labelled]):
    """The images of a segmentation set.

    An image that cannot be decoded is replaced by another. A label map that does not fit its image or the class list
    is an error of the whole set: it ends the run with a message of one line.
    """

    def __init__(self, data: SegmentationSet) -> None:
        self.data = data
        starts = np.arange(0, len(data), BLOCK)
        self.blocks = np.minimum(len(data) - starts, BLOCK).astype(np.int64)
        listed = "\n".join([*data.classes, "", *map(str, data.ids)])
        self.fingerprint = hashlib.sha256(listed.encode()).hexdigest()

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> Labelled:
        """Read an image with its label map.

        Raises:
            BadSample: the image cannot be decoded.
            BadInput: see `SegmentationSet.example`.
        """
        key = str(self.data.ids[index])
        try:
            image, truth = self.data.example(index)
        except BadInput as error:
            if isinstance(error.__cause__, BadImage):
                raise BadSample(Broken(self.data.name, key, error.__cause__.cause, str(error))) from error
            raise
        return Labelled(key, image, truth)

    def where(self, index: int) -> str:
        """Name of an image in the set."""
        return f"{self.data.name}/{self.data.ids[index]}"


@dataclass(frozen=True)
class LabelledBatch:
    """One rank's share of a batch of crops."""

    pixels: Tensor  # uint8 [B, 3, S, S]
    truth: Tensor  # int32 [B, S, S], each a class or the set's `ignore`
    keys: Sequence[str]
    broken: Sequence[Broken] = ()

    def to(self, device: torch.device | str) -> LabelledBatch:
        """The batch on a device."""
        return self._map(lambda x: x.to(device, non_blocking=True))

    def pin_memory(self) -> LabelledBatch:
        """The same in page-locked memory."""
        return self._map(lambda x: x.pin_memory())

    def _map(self, function: Callable[[Tensor], Tensor]) -> LabelledBatch:
        return replace(self, pixels=function(self.pixels), truth=function(self.truth))


@dataclass(frozen=True)
class Crops:
    """A `Collate`: a random crop of each image, by random numbers that follow from its `Visit`.

    Args:
        side: pixels of a crop.
        ignore: the set's label of pixels that have no class.
        colours: whether colours are changed.
    """

    side: int
    ignore: int
    colours: bool = True

    def __call__(self, samples: RankSamples[Labelled]) -> LabelledBatch:
        """The batch of these samples."""
        num, side = len(samples), self.side
        pixels = samples.empty((num, 3, side, side), dtype=torch.uint8)
        truth = samples.empty((num, side, side), dtype=torch.int32)
        for place, (sample, visit) in enumerate(samples):
            draws = stream("label-map-crop", *visit)
            own: Example = augmented(sample.image, sample.truth, side, self.ignore, draws, colours=self.colours)
            pixels[place], truth[place] = own
        return LabelledBatch(pixels, truth, samples.keys, samples.broken)

    def num_bytes(self, num: int) -> int:
        """Bytes of `num` samples: per pixel, three for colour and four for the label."""
        return num * 7 * self.side**2


class Training(NamedTuple):
    """A training set."""

    data: SegmentationSet
    beside: SegmentationSet | None
    """The set's own test part, if there is one."""


def opened(place: str, split: str = SPLIT) -> Training:
    """Open the set in a folder: one in its authors' layout, or classes.txt with images/ and labels/.

    Your own folder has its training images in the subfolder of that split. If it has no splits at all, the whole
    folder is used for training when `split` is "train".

    Raises:
        BadInput: the folder is missing, has neither layout, or has no such split.
    """
    path = Path(place)
    if not path.is_dir():
        raise BadInput(f"data.train {place} is no folder; name a folder of images with label maps")
    if (path / CLASSES).is_file():
        return _own(path, split)
    known = [source for root in (path.parent, path.parent.parent) for source in label_maps.official(root)]
    for source in (label_maps.coco_stuff(path), *known):
        needs = source.train_needs
        if source.read_train and needs and all(p.exists() and p.is_relative_to(path) for p in needs):
            if split != SPLIT:
                raise BadInput(
                    f"{place} is {source.name} as its authors laid it out, with a training part of its own; "
                    "leave out data.split"
                )
            beside = source.read() if all(p.exists() for p in source.needs) else None
            return Training(source.read_train(), beside)
    raise BadInput(
        f"data.train {place} holds no training images with label maps; it needs a set as its authors laid it out "
        f"(`silc eval --list`), or {CLASSES} with {split}/images and {split}/labels"
    )


def _own(path: Path, split: str) -> Training:
    """Open a user's own folder."""
    read, splits = label_maps.read_segmentation, sorted(one.parent.name for one in path.glob("*/images"))
    if (path / split / "images").is_dir():
        return Training(read(path, split), read(path) if (path / "images").is_dir() else None)
    if splits or split != SPLIT:
        there = f"its splits are {', '.join(splits)}" if splits else "it has no splits; leave out data.split"
        raise BadInput(f"data.train {path} has no {split}/images, the images of split {split!r}; {there}")
    return Training(read(path), None)


def training_images(
    place: str, split: str, orientation: Literal["ignore", "apply"], scored: Sequence[SegmentationSet] = ()
) -> SegmentationSet:
    """Open the training images of a folder; none of them may be in its test part, or in a set that is scored.

    Raises:
        BadInput: the folder has no such images, one is missing, or one is also scored.
    """
    found = opened(place, split)
    train: SegmentationSet = suite.held(found.data, orientation)
    refuse_shared_images(train, [*([found.beside] if found.beside else []), *scored])
    return train


def refuse_shared_images(train: SegmentationSet, others: Sequence[SegmentationSet]) -> None:
    """Refuse an image that is used both for training and for scores.

    Two images are the same if they are one file, or have the same bytes.

    Raises:
        BadInput: there is such an image.
    """
    sizes: dict[int, list[Path]] = {}
    for file in _images_of(train):
        sizes.setdefault(file.stat().st_size, []).append(file)
    marks: dict[Path, str] = {}

    def mark(file: Path) -> str:
        if file not in marks:
            marks[file] = hashlib.sha256(file.read_bytes()).hexdigest()
        return marks[file]

    for other in others:
        for file in _images_of(other):
            same = sizes.get(file.stat().st_size, [])
            if twin := next((one for one in same if one.samefile(file) or mark(one) == mark(file)), None):
                raise BadInput(
                    f"{twin} is a training image, and {file} of {other.name}, which is scored, is the same image; "
                    "leave one of them out"
                )


def _images_of(data: SegmentationSet) -> list[Path]:
    """The image files of a set: every second one of `data.files`, where each image is followed by its label map."""
    return list(data.files[::2])
