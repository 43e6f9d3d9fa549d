"""Data sets in the layouts their authors publish, and every data set there is under a root.

| data set        | where its authors' archives unpack to                                                            |
| --------------- | ------------------------------------------------------------------------------------------------ |
| `imagenet`      | `imagenet/{train,val}/<wnid>/*.JPEG`                                                             |
| `cifar10`       | `cifar-10-batches-py/`                                                                           |
| `cifar100`      | `cifar-100-python/`                                                                              |
| `coco`          | `coco/dataset_coco.json` (Karpathy), `coco/val2014/`                                             |
| `flickr30k`     | `flickr30k/dataset_flickr30k.json` (Karpathy), `flickr30k/flickr30k-images/`                     |
| `ade150`        | `ADEChallengeData2016/{images,annotations}/validation/`                                          |
| `pc59`          | `VOCdevkit/VOC2010/{JPEGImages,SegmentationClassContext,ImageSets/SegmentationContext/val.txt}`  |
| `voc20`         | `VOCdevkit/VOC2012/{JPEGImages,SegmentationClass,ImageSets/Segmentation/val.txt}`                |
| `cityscapes`    | `cityscapes/leftImg8bit/val/`, `cityscapes/gtFine/val/*/*_gtFine_labelTrainIds.png`              |
| `coco-stuff`    | `coco_stuff164k/images/val2017/`, `coco_stuff164k/annotations/val2017/`: stuffthingmaps' `*.png` |
|                 | or mmsegmentation's `*_labelTrainIds.png`                                                        |
| any other       | `classification/<set>`, `retrieval/<set>`, `segmentation/<set>`: folders as in `own_sets.py`, or |
|                 | CLIP_benchmark's WebDataset: `classnames.txt`, `{train,test}/{nshards.txt,0.tar,...}`            |

Class lists are mmsegmentation's, which are TCL's. Training images for probes lie beside those of segmentation, as the
archives have them: ADE20K's `training/`, VOC's `train.txt`, Cityscapes' `train/`, COCO-Stuff's `train2017/`.
"""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from silc.errors import BadInput
from silc.eval.cifar import read_cifar
from silc.eval.datasets import (
    ClassificationSet,
    RetrievalSet,
    SegmentationSet,
    Source,
    captioned,
    class_folders,
    folders,
    images_in,
    labelled,
    lines_of,
    read_label,
    text_of,
)
from silc.eval.prompts import class_names
from silc.eval.webdataset import read_wds_classification, read_wds_retrieval

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray


def discover(root: str | Path) -> list[Source[Any]]:
    """The data sets found under a root folder: the official layouts, then folders by kind and name.

    Raises:
        BadInput: no root, nothing in it, or two data sets of one kind and name.
    """
    if not root:
        raise BadInput(
            "no data to evaluate on: give --root (eval.root in a recipe), a folder with data sets; "
            "`silc eval --list` shows the layouts"
        )
    found = [source for source in everything(Path(root)) if all(path.exists() for path in source.needs)]
    if not found:
        raise BadInput(
            f"{root} holds no data set; needed are official layouts (`silc eval --list --root {root}`) or folders "
            f"like {root}/classification/<set>, retrieval/<set>, ..."
        )
    seen: dict[tuple[str, str], Source[Any]] = {}
    for source in found:
        other = seen.setdefault((source.kind, source.name), source)
        if other is not source:
            raise BadInput(f"{other.needs[0]} and {source.needs[0]} are both called {source.name}; rename the folder")
    return found


def everything(root: Path) -> list[Source[Any]]:
    """Every official data set, found under the root or not, and the folders that are there."""
    official = [*_classification(root), *_retrieval(root), *_segmentation(root)]
    return [*official, *(_webdataset(source) or source for source in folders(root))]


def _classification(root: Path) -> list[Source[Any]]:
    imagenet, cifar10, cifar100 = root / "imagenet", root / "cifar-10-batches-py", root / "cifar-100-python"
    return [
        Source(
            "classification",
            "imagenet",
            [imagenet / "val"],
            partial(read_imagenet, imagenet, "val"),
            partial(read_imagenet, imagenet, "train"),
            [imagenet / "train"],
        ),
        _cifar(cifar10, "cifar10", [f"data_batch_{i}" for i in range(1, 6)], "test_batch", "batches.meta", "label"),
        _cifar(cifar100, "cifar100", ["train"], "test", "meta", "fine_label"),
    ]


def _retrieval(root: Path) -> list[Source[Any]]:
    coco, flickr = root / "coco", root / "flickr30k"
    return [
        Source(
            "retrieval",
            "coco",
            [coco / "dataset_coco.json", coco / "val2014"],
            partial(read_karpathy, "coco", coco / "dataset_coco.json", coco),
        ),
        Source(
            "retrieval",
            "flickr30k",
            [flickr / "dataset_flickr30k.json", flickr / "flickr30k-images"],
            partial(read_karpathy, "flickr30k", flickr / "dataset_flickr30k.json", flickr / "flickr30k-images"),
        ),
    ]


def _segmentation(root: Path) -> list[Source[Any]]:
    ade, context, voc = root / "ADEChallengeData2016", root / "VOCdevkit/VOC2010", root / "VOCdevkit/VOC2012"
    city, stuff = root / "cityscapes", root / "coco_stuff164k"
    return [
        _splits("ade150", read_ade20k, ade / "images", ade / "annotations", "validation", "training"),
        _voc("pc59", "pascal_context_59", context, "SegmentationContext", "SegmentationClassContext"),
        _voc("voc20", "voc_20", voc, "Segmentation", "SegmentationClass"),
        _splits("cityscapes", read_cityscapes, city / "leftImg8bit", city / "gtFine", "val", "train"),
        _splits("coco-stuff", read_coco_stuff, stuff / "images", stuff / "annotations", "val2017", "train2017"),
    ]


# --- ImageNet, CIFAR --------------------------------------------------------------------------------------------------


def read_imagenet(folder: Path, split: str) -> ClassificationSet:
    """ImageNet's 1000 folders, whose sorted order is that of CLIP's curated names.

    Raises:
        BadInput: there are not 1000 folders, or no images.
    """
    return class_folders(folder / split, "imagenet", split, class_names("imagenet_1000"))


def _cifar(
    folder: Path, name: str, train: Sequence[str], test: str, meta: str, label: str
) -> Source[ClassificationSet]:
    def read(split: str, parts: Sequence[str]) -> ClassificationSet:
        return read_cifar(name, split, [folder / part for part in parts], folder / meta, label)

    return Source(
        "classification",
        name,
        [folder / part for part in (meta, test)],
        partial(read, "test", [test]),
        partial(read, "train", train),
        [folder / part for part in train],
    )


# --- captions ---------------------------------------------------------------------------------------------------------


def read_karpathy(name: str, file: Path, images: Path, split: str = "test") -> RetrievalSet:
    """One split of Karpathy's `dataset_*.json`, all captions as written.

    Raises:
        BadInput: the file is no such list, or names an image that is not there.
    """
    try:
        entries = [entry for entry in json.loads(text_of(file))["images"] if entry["split"] == split]
        pairs = [
            (images / entry.get("filepath", "") / entry["filename"], [one["raw"].strip() for one in entry["sentences"]])
            for entry in entries
        ]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadInput(f"{file} is not Karpathy's list of images with split and sentences: {error!r}") from error
    if not pairs:
        raise BadInput(f"{file} lists no image of the split '{split}'")
    for path, captions in pairs:
        if not captions:
            raise BadInput(f"{file}: {path.name} has no caption")
        if not path.is_file():
            raise BadInput(f"{file} names {path}, which does not exist")
    return captioned(name, pairs)


# --- segmentation -----------------------------------------------------------------------------------------------------


def _splits(
    name: str, read: Callable[[Path, Path], SegmentationSet], images: Path, labels: Path, test: str, train: str
) -> Source[SegmentationSet]:
    """A set whose images and labels have a folder for each split."""
    of_test, of_train = ([images / split, labels / split] for split in (test, train))
    return Source("segmentation", name, of_test, partial(read, *of_test), partial(read, *of_train), of_train)


def read_ade20k(images: Path, labels: Path) -> SegmentationSet:
    """ADE20K's 150 classes; label 0 is everything else and not scored."""
    pairs = [(path, labels / f"{path.stem}.png") for path in images_in(images)]
    return labelled("ade150", class_names("ade_150"), pairs, background_ignored=True)


def _voc(name: str, classes: str, folder: Path, lists: str, labels: str) -> Source[SegmentationSet]:
    val, train = (folder / "ImageSets" / lists / f"{split}.txt" for split in ("val", "train"))
    places = [folder / "JPEGImages", folder / labels]
    read = partial(read_voc, name, classes)
    return Source(
        "segmentation", name, [val, *places], partial(read, val, *places), partial(read, train, *places), [train]
    )


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


# --- CLIP_benchmark's WebDataset --------------------------------------------------------------------------------------


def _webdataset(source: Source[Any]) -> Source[Any] | None:
    """The reader of a folder that holds shards in CLIP_benchmark's layout; None of one that does not."""
    folder = source.needs[0]
    if not (folder / "test" / "nshards.txt").is_file():
        return None
    if source.kind == "retrieval":
        return Source("retrieval", source.name, [folder], partial(read_wds_retrieval, folder))
    read = partial(read_wds_classification, folder)
    return Source("classification", source.name, [folder], read, partial(read, "train"), [folder / "train/nshards.txt"])
