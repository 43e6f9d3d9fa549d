"""Images with a class per pixel: the sets of zero-shot segmentation, and folders of images and label maps.

| data set        | where its authors' archives unpack to                                                            |
| --------------- | ------------------------------------------------------------------------------------------------ |
| `ade150`        | `ADEChallengeData2016/{images,annotations}/validation/`                                          |
| `pc59`          | `VOCdevkit/VOC2010/{JPEGImages,SegmentationClassContext,ImageSets/SegmentationContext/val.txt}`  |
| `voc20`         | `VOCdevkit/VOC2012/{JPEGImages,SegmentationClass,ImageSets/Segmentation/val.txt}`                |
| `cityscapes`    | `cityscapes/leftImg8bit/val/`, `cityscapes/gtFine/val/*/*_gtFine_labelTrainIds.png`              |
| `coco-stuff`    | `coco_stuff164k/images/val2017/`, `coco_stuff164k/annotations/val2017/`: stuffthingmaps' `*.png` |
|                 | or mmsegmentation's `*_labelTrainIds.png`                                                        |

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


def official(root: Path) -> list[Source[SegmentationSet]]:
    """ADE20K, Pascal Context and VOC, Cityscapes, COCO-Stuff."""
    ade, context, voc = root / "ADEChallengeData2016", root / "VOCdevkit/VOC2010", root / "VOCdevkit/VOC2012"
    city, stuff = root / "cityscapes", root / "coco_stuff164k"
    return [
        _splits("ade150", read_ade20k, ade / "images", ade / "annotations", "validation", "training"),
        _voc("pc59", "pascal_context_59", context, "SegmentationContext", "SegmentationClassContext"),
        _voc("voc20", "voc_20", voc, "Segmentation", "SegmentationClass"),
        _splits("cityscapes", read_cityscapes, city / "leftImg8bit", city / "gtFine", "val", "train"),
        _splits("coco-stuff", read_coco_stuff, stuff / "images", stuff / "annotations", "val2017", "train2017"),
    ]


def folder(path: Path) -> Source[SegmentationSet]:
    """A folder of one's own."""
    read = partial(read_segmentation, path)
    return Source("segmentation", path.name, [path], read, partial(read, "train"), [path / "train"])


def _splits(
    name: str, read: Callable[[Path, Path], SegmentationSet], images: Path, labels: Path, test: str, train: str
) -> Source[SegmentationSet]:
    """A set whose images and labels have a folder for each split."""
    of_test, of_train = ([images / split, labels / split] for split in (test, train))
    return Source("segmentation", name, of_test, partial(read, *of_test), partial(read, *of_train), of_train)


def _voc(name: str, classes: str, folder: Path, lists: str, labels: str) -> Source[SegmentationSet]:
    val, train = (folder / "ImageSets" / lists / f"{split}.txt" for split in ("val", "train"))
    places = [folder / "JPEGImages", folder / labels]
    read = partial(read_voc, name, classes)
    return Source(
        "segmentation", name, [val, *places], partial(read, val, *places), partial(read, train, *places), [train]
    )


def read_ade20k(images: Path, labels: Path) -> SegmentationSet:
    """ADE20K's 150 classes; label 0 is everything else and not scored."""
    pairs = [(path, labels / f"{path.stem}.png") for path in images_in(images)]
    return labelled("ade150", class_names("ade_150"), pairs, background_ignored=True)


def read_voc(name: str, classes: str, split: Path, images: Path, labels: Path) -> SegmentationSet:
    """Pascal VOC or Pascal Context by the list of a split; label 0 is the background and not scored."""
    pairs = [(images / f"{line}.jpg", labels / f"{line}.png") for line in lines_of(split)]
    return labelled(name, class_names(classes), pairs, background_ignored=True)


def read_cityscapes(images: Path, labels: Path) -> SegmentationSet:
    """Cityscapes' 19 training classes; 255 is not scored."""
    pairs = [
        (path, labels / city.name / path.name.replace("_leftImg8bit", "_gtFine_labelTrainIds"))
        for city in sorted(images.iterdir())
        if city.is_dir()
        for path in images_in(city)
    ]
    return labelled("cityscapes", class_names("cityscapes_19"), pairs, background_ignored=False)


UNUSED_IDS = (11, 25, 28, 29, 44, 65, 67, 68, 70, 82, 90)
"""Of COCO's 182 ids from 0: those that no image has, so that 171 classes remain."""


def read_coco_stuff(images: Path, labels: Path) -> SegmentationSet:
    """COCO-Stuff's 171 classes, from stuffthingmaps or from mmsegmentation's conversion; 255 is not scored."""
    files = images_in(images)
    converted = bool(files) and (labels / f"{files[0].stem}_labelTrainIds.png").is_file()
    pairs = [(path, labels / f"{path.stem}{'_labelTrainIds' if converted else ''}.png") for path in files]
    read = read_label if converted else read_stuffthingmap
    return labelled("coco-stuff", class_names("coco_stuff_171"), pairs, background_ignored=False, read=read)


def read_stuffthingmap(path: Path) -> NDArray[Any]:
    """Classes of 171 [H, W] from ids of 182."""
    used = [number for number in range(182) if number not in UNUSED_IDS]
    table = np.full(256, 255, np.uint8)
    table[used] = np.arange(len(used))
    label = read_label(path)
    if label.dtype.itemsize > 1 and label.max(initial=0) > 255:
        raise BadInput(f"the label {path} has the value {label.max()}; a stuff-thing map has those of 0 to 255")
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
