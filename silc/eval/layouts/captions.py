"""Images with captions: Karpathy's splits of COCO and Flickr30k, and folders with a table of captions."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from silc.data.captions import NoCaption, usable
from silc.data.tables import read_rows, table_of
from silc.errors import BadInput
from silc.eval.datasets import Lazy, RetrievalSet, Source
from silc.eval.files import read_image, text_of
from silc.eval.layouts.webdataset import is_sharded, read_wds_retrieval


def official(root: Path) -> list[Source[RetrievalSet]]:
    """The sources of COCO and Flickr30k."""
    coco, flickr = root / "coco", root / "flickr30k"
    return [
        _karpathy("coco", coco, [coco / "val2014"], coco),
        _karpathy("flickr30k", flickr, [flickr / "flickr30k-images"], flickr / "flickr30k-images"),
    ]


def folder(path: Path) -> Source[RetrievalSet]:
    """The source of a user's own folder."""
    read = read_wds_retrieval if is_sharded(path) else read_retrieval
    return Source("retrieval", path.name, [path], partial(read, path))


def _karpathy(name: str, place: Path, needs: Sequence[Path], images: Path) -> Source[RetrievalSet]:
    file = place / f"dataset_{name}.json"
    return Source("retrieval", name, [file, *needs], partial(read_karpathy, name, file, images))


TEST, TRAIN = ("test",), ("train", "restval")
"""Karpathy's split for scores, and his splits for training a captioner."""


def read_training(place: Path) -> RetrievalSet | None:
    """The training part of a folder in the layout of COCO's or Flickr30k's list; None if it holds no such list.

    Raises:
        BadInput: as `read_karpathy`.
    """
    for name in ("coco", "flickr30k"):
        file, photographs = place / f"dataset_{name}.json", place / "flickr30k-images"
        if file.is_file():
            return read_karpathy(name, file, photographs if name == "flickr30k" else place, TRAIN)
    return None


def read_karpathy(name: str, file: Path, images: Path, splits: Sequence[str] = TEST) -> RetrievalSet:
    """Read splits of Karpathy's `dataset_*.json`, by default the test split, with all captions as written.

    Raises:
        BadInput: the file is no such list, or names an image that is not there.
    """
    try:
        entries = [entry for entry in json.loads(text_of(file))["images"] if entry["split"] in splits]
        pairs = [
            (images / entry.get("filepath", "") / entry["filename"], [one["raw"].strip() for one in entry["sentences"]])
            for entry in entries
        ]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadInput(f"{file} is not Karpathy's list of images with split and sentences: {error!r}") from error
    if without := next((path for path, captions in pairs if not any(captions)), None):
        raise BadInput(f"{file}: {without.name} has no caption")
    return captioned(name, pairs, file)


def read_retrieval(folder: Path) -> RetrievalSet:
    """Read `captions.json`, or another table of captions (`silc.data.tables`); rows of one image are joined.

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
            raise BadInput(f"{file}: {name} {error}; remove the entry or correct it") from error
        if len(captions) < len(found):
            raise BadInput(f"{file}: {name} has an empty caption; remove it or add its text")
        pairs.append((folder / name, list(captions)))
    return captioned(folder.name, pairs, file)


def captioned(name: str, pairs: Sequence[tuple[Path, Sequence[str]]], listed: Path) -> RetrievalSet:
    """A retrieval set of image files and their captions, as a file lists them.

    Raises:
        BadInput: there are no images, or one is missing.
    """
    files = [path for path, _ in pairs]
    if not files:
        raise BadInput(f"{listed} lists no images")
    if gone := next((path for path in files if not path.is_file()), None):
        raise BadInput(f"{listed} names {gone}, which does not exist")
    return RetrievalSet(name, Lazy(files, read_image), [captions for _, captions in pairs], files=files)
