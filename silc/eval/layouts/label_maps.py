"""Images with a class per pixel: the sets of zero-shot segmentation, and folders of images and label maps.

Class lists are mmsegmentation's, which are TCL's. Training images for probes lie beside those, as the archives have
them: ADE20K's `training/`, VOC's `train.txt`, Cityscapes' `train/`, COCO-Stuff's `train2017/`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from silc.errors import BadInput
from silc.eval.datasets import Lazy, SegmentationSet, Source
from silc.eval.files import distinct, images_in, lines_of, read_image, read_label
from silc.eval.prompts import class_names
from silc.images import READ

if TYPE_CHECKING:
    from numpy.typing import NDArray

log = logging.getLogger(__name__)


Pairs = list[tuple[Path, Path]]
"""Image files and their label files."""
UNUSED_IDS = (11, 25, 28, 29, 44, 65, 67, 68, 70, 82, 90)
"""Of COCO's 182 ids from 0: those that no image has, so that 171 classes remain."""


def official(root: Path) -> list[Source[SegmentationSet]]:
    """ADE20K, Pascal Context and VOC, Cityscapes, COCO-Stuff."""
    ade, context, voc = root / "ADEChallengeData2016", root / "VOCdevkit/VOC2010", root / "VOCdevkit/VOC2012"
    city, stuff = root / "cityscapes", root / "coco_stuff164k"

    def splits(images: Path, labels: Path, *names: str) -> list[list[Path]]:
        return [[images / split, labels / split] for split in names]

    def lists(place: Path, kind: str, labels: str) -> list[list[Path]]:
        files = [place / "ImageSets" / kind / f"{split}.txt" for split in ("val", "train")]
        return [[file, place / "JPEGImages", place / labels] for file in files]

    of_ade = splits(ade / "images", ade / "annotations", "validation", "training")
    of_city = splits(city / "leftImg8bit", city / "gtFine", "val", "train")
    of_stuff = splits(stuff / "images", stuff / "annotations", "val2017", "train2017")
    of_context = lists(context, "SegmentationContext", "SegmentationClassContext")
    return [
        _source("ade150", "ade_150", _by_stem, *of_ade, zero=True),
        _source("pc59", "pascal_context_59", _by_list, *of_context, zero=True),
        _source("voc20", "voc_20", _by_list, *lists(voc, "Segmentation", "SegmentationClass"), zero=True),
        _source("cityscapes", "cityscapes_19", _by_city, *of_city),
        _source("coco-stuff", "coco_stuff_171", _stuff, *of_stuff, read=read_stuff),
    ]


def folder(path: Path) -> Source[SegmentationSet]:
    """A folder of one's own."""
    read = partial(read_segmentation, path)
    return Source("segmentation", path.name, [path], read, partial(read, "train"), [path / "train"])


def _source(
    name: str,
    classes: str,
    pairs: Callable[..., Pairs],
    test: Sequence[Path],
    train: Sequence[Path],
    *,
    zero: bool = False,
    read: Callable[[Path], NDArray[Any]] = read_label,
) -> Source[SegmentationSet]:
    """A set of published classes. Where `zero`, label 0 is the background or everything else, and is not scored."""

    def of(places: Sequence[Path]) -> SegmentationSet:
        return labelled(name, class_names(classes), pairs(*places), background_ignored=zero, read=read)

    beside = [path for path in train if path not in test]
    return Source("segmentation", name, test, partial(of, test), partial(of, train), beside)


def _by_stem(images: Path, labels: Path) -> Pairs:
    return [(path, labels / f"{path.stem}.png") for path in images_in(images)]


def _by_list(split: Path, images: Path, labels: Path) -> Pairs:
    return [(images / f"{line}.jpg", labels / f"{line}.png") for line in lines_of(split)]


def _by_city(images: Path, labels: Path) -> Pairs:
    found = [path for city in sorted(images.iterdir()) if city.is_dir() for path in images_in(city)]
    return [
        (path, labels / path.parent.name / path.name.replace("_leftImg8bit", "_gtFine_labelTrainIds")) for path in found
    ]


def _stuff(images: Path, labels: Path) -> Pairs:
    """Stuffthingmaps, or mmsegmentation's conversion."""
    pairs = _by_stem(images, labels)
    converted = [(image, label.with_stem(f"{label.stem}_labelTrainIds")) for image, label in pairs]
    return converted if converted and converted[0][1].is_file() else pairs


def read_stuff(path: Path) -> NDArray[Any]:
    """Classes of 171 [H, W], of a stuffthingmap's 182 ids or of converted ones."""
    label = read_label(path)
    if path.stem.endswith("_labelTrainIds"):
        return label
    if label.dtype.itemsize > 1 and label.max(initial=0) > 255:
        raise BadInput(f"the label {path} has the value {label.max()}; a stuff-thing map has those of 0 to 255")
    used = [number for number in range(182) if number not in UNUSED_IDS]
    table = np.full(256, 255, np.uint8)
    table[used] = np.arange(len(used))
    return np.asarray(table[label])


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
    pairs: Pairs,
    *,
    background_ignored: bool,
    read: Callable[[Path], NDArray[Any]] = read_label,
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
        labels=Lazy([label for _, label in pairs], read),
        background_ignored=background_ignored,
        files=[file for pair in pairs for file in pair],
    )
