"""Images with a class per pixel: the sets of zero-shot segmentation, and folders of images and label maps.

Class lists are mmsegmentation's, which TCL uses too. A-847, PC-459 and VOC-20b have CAT-Seg's class lists and folders;
`silc data prepare` makes such folders from the releases. Training images for probes are where the archives have them:
ADE20K's `training/`, VOC's `train.txt`, Cityscapes' `train/`, COCO-Stuff's `train2017/`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from silc.errors import BadInput
from silc.eval.datasets import Lazy, SegmentationSet, Source
from silc.eval.files import distinct, images_in, lines_of, listing, read_image, read_label
from silc.eval.layouts.coco_maps import NUM_THINGS, object_pairs, read_objects, read_stuff, stuff_pairs
from silc.eval.prompts import class_names
from silc.images import READ

if TYPE_CHECKING:
    from numpy.typing import NDArray

log = logging.getLogger(__name__)


Pairs = list[tuple[Path, Path]]
"""Image files and their label files."""
ADE_FULL, CONTEXT, VOC = "ADE20K_2021_17_01", "VOCdevkit/VOC2010", "VOCdevkit/VOC2012"
"""Folders to which the releases unpack."""
PREPARED = {"ade847": "ade847", "pc459": "pc459", "pc59": "pc59", "pc60": "pc59"}
"""Sets whose labels must be decoded first, and the NAME of each for `silc data prepare`."""


def official(root: Path) -> list[Source[SegmentationSet]]:
    """Sources: ADE20K in 150 and 847 classes, Pascal Context and VOC with and without background, Cityscapes, COCO."""
    ade, context, voc = root / "ADEChallengeData2016", root / CONTEXT, root / VOC
    city, stuff, full = root / "cityscapes", root / "coco_stuff164k", root / ADE_FULL

    def splits(images: Path, labels: Path, *names: str) -> list[list[Path]]:
        return [[images / split, labels / split] for split in names]

    def lists(place: Path, kind: str, labels: str) -> list[list[Path]]:
        files = [place / "ImageSets" / kind / f"{split}.txt" for split in ("val", "train")]
        return [[file, place / "JPEGImages", place / labels] for file in files]

    augmented = "SegmentationClassAug" if (voc / "SegmentationClassAug").is_dir() else "SegmentationClass"
    of_ade = splits(ade / "images", ade / "annotations", "validation", "training")
    of_city = splits(city / "leftImg8bit", city / "gtFine", "val", "train")
    of_stuff = splits(stuff / "images", stuff / "annotations", "val2017", "train2017")
    of_context = lists(context, "SegmentationContext", "SegmentationClassContext")
    of_voc = lists(voc, "Segmentation", "SegmentationClass")
    of_full = splits(full / "images_detectron2", full / "annotations_detectron2", "validation")
    of_459 = [[context / "JPEGImages", context / "annotations_detectron2/pc459_val"]]
    first_words = [[name.split(", ")[0]] for name in class_names("ade_847")]
    stuff_names = class_names("coco_stuff_171_maskclip")[NUM_THINGS:]
    things = Classes("coco_stuff_171", most=NUM_THINGS, background=stuff_names)
    return [
        _source("ade150", Classes("ade_150"), _by_stem, *of_ade, zero=True),
        _source("ade847", Classes("ade_847", words=first_words), _by_label, *of_full),
        _source("pc59", Classes("pascal_context_59"), _by_list, *of_context, zero=True),
        _source("pc60", Classes("pascal_context_59", background=_rest_of_context()), _by_list, *of_context),
        _source("pc459", Classes("pascal_context_459"), _by_label, *of_459),
        _source("voc20", Classes("voc_20"), _by_list, *of_voc, zero=True),
        _source("voc21", Classes("voc_20", background=class_names("voc_20b_59_catseg")[20:]), _by_list, *of_voc),
        _voc20b(lists(voc, "Segmentation", augmented)[0]),
        _source("cityscapes", Classes("cityscapes_19"), _by_city, *of_city),
        coco_stuff(stuff),
        _source("coco-object", things, object_pairs, *of_stuff, read=read_objects),
    ]


def coco_stuff(place: Path) -> Source[SegmentationSet]:
    """COCO-Stuff in a folder of any name, with its authors' images/ and annotations/."""
    test, train = ([place / part / split for part in ("images", "annotations")] for split in ("val2017", "train2017"))
    return _source("coco-stuff", Classes("coco_stuff_171"), stuff_pairs, test, train, read=read_stuff)


def _rest_of_context() -> list[str]:
    """Names, with separate words, of the Pascal Context classes that are background in its 60 classes."""
    kept = class_names("pascal_context_59")
    both = zip(class_names("pascal_context_459"), class_names("pascal_context_459_maskclip"), strict=True)
    return [spelled for name, spelled in both if name not in kept]


def _voc20b(places: Sequence[Path]) -> Source[SegmentationSet]:
    """VOC-21 as CAT-Seg defines it: 59 names; the 39 that are not among VOC's 20 stand for the background."""
    names = class_names("voc_20b_59_catseg")
    classes, words = [*names[:20], "background"], [*([name] for name in names[:20]), names[20:]]

    def of() -> SegmentationSet:
        return labelled("voc20b", classes, _by_list(*places), background_ignored=False, read=read_voc20b, words=words)

    return Source("segmentation", "voc20b", places, of)


def folder(path: Path) -> Source[SegmentationSet]:
    """The source of a user's own folder."""
    read = partial(read_segmentation, path)
    return Source("segmentation", path.name, [path], read, partial(read, "train"), [path / "train"])


class Classes(NamedTuple):
    """The classes of a published list, or only the first `most` of them, and how they are named."""

    published: str
    most: int | None = None
    background: Sequence[str] = ()
    """If the background is a class, the first one: names of what is there."""
    words: Sequence[Sequence[str]] = ()
    """Words for each class, if these are not just its name."""


def _source(
    name: str,
    classes: Classes,
    pairs: Callable[..., Pairs],
    test: Sequence[Path],
    train: Sequence[Path] = (),
    *,
    zero: bool = False,
    read: Callable[[Path], NDArray[Any]] = read_label,
) -> Source[SegmentationSet]:
    """The source of a set of published classes. If `zero`, label 0 (background or everything else) is not scored."""
    published, most, background, words = classes
    names = [*(["background"] if background else []), *class_names(published)[:most]]
    spelled = {"words": words, "published": published, "background_words": background}

    def of(places: Sequence[Path]) -> SegmentationSet:
        return labelled(name, names, pairs(*places), background_ignored=zero, read=read, **spelled)

    beside = [path for path in train if path not in test]
    learns = partial(of, train) if train else None
    return Source("segmentation", name, test, partial(of, test), learns, beside, prepared=PREPARED.get(name, ""))


def _by_stem(images: Path, labels: Path) -> Pairs:
    return [(path, labels / f"{path.stem}.png") for path in images_in(images)]


def _by_label(images: Path, labels: Path) -> Pairs:
    """The images that have a label map, paired as in detectron2; maps are PNG or, from its scripts, TIFF."""
    found = sorted(path for path in listing(labels) if path.suffix.lower() in (".png", ".tif"))
    for one, other in pairwise(found):
        if one.stem == other.stem:
            raise BadInput(f"{one} and {other} are labels of one image; leave one of them out")
    return [(images / f"{path.stem}.jpg", path) for path in found]


def _by_list(split: Path, images: Path, labels: Path) -> Pairs:
    return [(images / f"{line}.jpg", labels / f"{line}.png") for line in lines_of(split)]


def _by_city(images: Path, labels: Path) -> Pairs:
    found = [path for city in sorted(images.iterdir()) if city.is_dir() for path in images_in(city)]
    return [
        (path, labels / path.parent.name / path.name.replace("_leftImg8bit", "_gtFine_labelTrainIds")) for path in found
    ]


def read_voc20b(path: Path) -> NDArray[Any]:
    """VOC's labels with the background last: 0 becomes 20, the others move down by one, 255 stays."""
    label = read_label(path)
    return np.where(label == 255, 255, np.where(label == 0, 20, label.astype(np.int64) - 1))


def read_segmentation(folder: Path, split: str = "") -> SegmentationSet:
    """Read `classes.txt` and match the file names of images and labels, which are in the folder or in a split's folder.

    A first class called "background" is ignored, as in VOC-20.

    Raises:
        BadInput: something is missing.
    """
    classes = distinct(lines_of(folder / "classes.txt"), f"{folder / 'classes.txt'}")
    background = classes[0] == "background"
    if background and len(classes) == 1:
        raise BadInput(f"{folder / 'classes.txt'} names only the background, which is not scored; name the classes too")
    images, labels = images_in(folder / split / "images"), folder / split / "labels"
    by_stem = (
        {path.stem: path for path in images_in(labels) if path.suffix.lower() == ".png"} if labels.is_dir() else {}
    )
    pairs = [(path, by_stem.get(path.stem, labels / f"{path.stem}.png")) for path in images]
    if surplus := by_stem.keys() - {path.stem for path in images}:
        log.warning(
            "%s: %d labels have no image and are not scored, for example %s.png", folder, len(surplus), min(surplus)
        )
    return labelled(folder.name, classes[background:], pairs, background_ignored=background)


def labelled(
    name: str,
    classes: Sequence[str],
    pairs: Pairs,
    *,
    background_ignored: bool,
    read: Callable[[Path], NDArray[Any]] = read_label,
    **spelled: Any,
) -> SegmentationSet:
    """A segmentation set of image files and their label files.

    `spelled` are fields of the set about the names of its classes.

    Raises:
        BadInput: there are no images, a file is missing, or two images have one label.
    """
    if not pairs:
        raise BadInput(f"{name} has no images; their names must end in {', '.join(READ)}")
    seen: dict[Path, Path] = {}
    for image, label in pairs:
        if not image.is_file():
            raise BadInput(f"{name}: the image {image} is missing")
        if not label.is_file():
            raise BadInput(f"{image} has no label; add {label}")
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
        **spelled,
    )
