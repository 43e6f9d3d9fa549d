"""Images with one class each: ImageNet, CIFAR, and own sets with one folder per class."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from silc.errors import BadInput
from silc.eval.datasets import ClassificationSet, Lazy, Source
from silc.eval.files import distinct, images_below, images_in, lines_of, listing, read_image
from silc.eval.layouts.cifar import read_cifar
from silc.eval.layouts.webdataset import is_sharded, read_wds_classification
from silc.eval.prompts import class_names
from silc.images import READ, is_image_name


def official(root: Path) -> list[Source[ClassificationSet]]:
    """The sources of ImageNet and CIFAR."""
    imagenet, cifar10, cifar100 = root / "imagenet", root / "cifar-10-batches-py", root / "cifar-100-python"
    read = partial(read_imagenet, imagenet)
    splits = partial(read, "val"), partial(read, "train")
    return [
        Source("classification", "imagenet", [imagenet / "val"], *splits, [imagenet / "train"]),
        _cifar(cifar10, "cifar10", [f"data_batch_{i}" for i in range(1, 6)], "test_batch", "batches.meta", "label"),
        _cifar(cifar100, "cifar100", ["train"], "test", "meta", "fine_label"),
    ]


def folder(path: Path) -> Source[ClassificationSet]:
    """The source of a user's own folder."""
    sharded = is_sharded(path)
    read = partial(read_wds_classification if sharded else read_classification, path)
    train = path / "train/nshards.txt" if sharded else path / "train"
    return Source("classification", path.name, [path], read, partial(read, "train"), [train])


def read_imagenet(folder: Path, split: str) -> ClassificationSet:
    """Read ImageNet's 1000 folders, whose sorted order is that of CLIP's curated names.

    Raises:
        BadInput: there are not 1000 folders, or no images.
    """
    return class_folders(folder / split, "imagenet", split, class_names("imagenet_1000"))


def _cifar(place: Path, name: str, train: Sequence[str], test: str, meta: str, label: str) -> Source[ClassificationSet]:
    def read(split: str, files: Sequence[Path]) -> ClassificationSet:
        return read_cifar(name, split, files, place / meta, label)

    of_test, of_train = [place / test], [place / file for file in train]
    splits = partial(read, "test", of_test), partial(read, "train", of_train)
    return Source("classification", name, [place / meta, *of_test], *splits, of_train)


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
    listed = listing(folder)
    inside = sorted(path for path in listed if path.is_dir())
    if beside := next((path for path in sorted(listed) if is_image_name(path.name) and path.is_file()), None):
        raise BadInput(f"{beside} lies in no class folder; move it into one, or out of {folder}")
    if len(inside) != len(classes):
        raise BadInput(
            f"{folder} has {len(inside)} class folders for {len(classes)} class names; each name needs one folder"
        )
    places = order_of([path.name for path in inside], classes, folder)
    # A folder may be empty: its class serves only as a wrong answer.
    own = dict(zip(places, inside, strict=True))
    found = [(path, label) for label in range(len(classes)) for path in _images_of_class(own[label])]
    if not found:
        raise BadInput(f"{folder} holds no images ({', '.join(READ)})")
    files = [path for path, _ in found]
    return ClassificationSet(name, split, classes, Lazy(files, read_image), [label for _, label in found], files=files)


def order_of(folders: Sequence[str], classes: Sequence[str], where: Path | str) -> list[int]:
    """The class of each class folder, a permutation of the C classes.

    By name if the folders have the classes' names (ignoring capitals, `_` and `-`), or one of the names between commas
    in a class. By number if all folders are numbers (from 0 or 1 on). Otherwise in the sorted order of the folders, as
    for wnids.

    Raises:
        BadInput: only some names match, numbers are missing, or usual ways to sort give different orders.
    """
    for spelt in (_exactly, _plainly, _in_part):
        found = _meetings(folders, classes, spelt)
        if set(found) == set(range(len(classes))):
            return found
    if any(place >= 0 for place in found):
        stranger = next(name for name, place in zip(folders, found, strict=True) if place < 0 or found.count(place) > 1)
        raise BadInput(
            f"{where}: some class folders have the names of classes, but no single class has the name of the "
            f"folder '{stranger}'; use the class names, or numbers in the order of the class names"
        )
    if all(name.isdecimal() for name in folders):
        numbers = [int(name) for name in folders]
        for first in (0, 1):
            if sorted(numbers) == list(range(first, first + len(numbers))):
                return [number - first for number in numbers]
        raise BadInput(
            f"{where}: the class folders are numbers from {min(numbers)} to {max(numbers)}; number them 0 "
            f"to {len(numbers) - 1} or 1 to {len(numbers)}, each once, or give them the names of the classes"
        )
    ordered = sorted(folders)
    for other in (sorted(folders, key=str.casefold), sorted(folders, key=_naturally)):
        if ordered != other:
            one, two = next(pair for pair in zip(ordered, other, strict=True) if pair[0] != pair[1])
            raise BadInput(
                f"{where}: it is not clear whether the class folder '{one}' or '{two}' comes first, so the class of "
                "each is unknown; give the folders the names of the classes, or pad their numbers with zeros"
            )
    places = {name: place for place, name in enumerate(ordered)}
    return [places[name] for name in folders]


def _meetings(folders: Sequence[str], classes: Sequence[str], spelt: Callable[[str], set[str]]) -> list[int]:
    """The class that each folder's name means; -1 if it means none or several."""
    meant: dict[str, set[int]] = {}
    for place, name in enumerate(classes):
        for spelling in spelt(name):
            meant.setdefault(spelling, set()).add(place)
    places = [set[int]().union(*(meant.get(spelling, ()) for spelling in spelt(name))) for name in folders]
    return [next(iter(own)) if len(own) == 1 else -1 for own in places]


def _exactly(name: str) -> set[str]:
    return {name}


def _plainly(name: str) -> set[str]:
    """The name without capitals, `_` and `-`, and with accents joined to their letters, which macOS separates."""
    return {" ".join(re.sub("[_-]", " ", unicodedata.normalize("NFC", name).casefold()).split())}


def _in_part(name: str) -> set[str]:
    """Each of the names that a class has: "tench, Tinca tinca"."""
    return set[str]().union(*map(_plainly, name.split(",")))


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
