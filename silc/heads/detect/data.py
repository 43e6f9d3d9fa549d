"""Images with boxes for training: reading the set, choosing the names to look for in each image, and making batches."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from silc.batch import Broken
from silc.data.pairs import BadSample, Source
from silc.data.streams import stream
from silc.errors import BadInput
from silc.eval import suite
from silc.eval.datasets import OtherSize
from silc.eval.files import lines_of
from silc.eval.layouts.boxes import read_training
from silc.eval.prompts import canonicalize, templates
from silc.heads.detect.augment import Part, Picture, compose
from silc.images import BadImage

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

    from silc.data.loader import RankSamples, Visit
    from silc.encoder import Tokenizer
    from silc.eval.datasets import Box, DetectionSet
    from silc.heads.detect.config import BoxDataConfig
    from silc.preprocess import Interpolation

BLOCK = 1000
"""Images in a block, which is shuffled and read like a shard."""
RARE = "rare"


@dataclass(frozen=True)
class Boxed:
    """An image and the objects in it."""

    key: str
    index: int
    image: Image.Image
    objects: Sequence[Box]


class BoxedImages(Source[Boxed]):
    """The images of a detection set. An image that cannot be decoded, or has the wrong size, is replaced by another."""

    def __init__(self, data: DetectionSet) -> None:
        self.data = data
        starts = np.arange(0, len(data), BLOCK)
        self.blocks = np.minimum(len(data) - starts, BLOCK).astype(np.int64)
        digest = hashlib.sha256("\n".join([*data.classes, "", *map(str, data.ids)]).encode())
        digest.update(np.array([box for own in data.objects for box in own], dtype=np.float64).tobytes())
        digest.update(np.array([len(own) for own in data.objects], dtype=np.int64).tobytes())
        self._of_boxes = digest.hexdigest()
        known = [list(map(sorted, own)) for own in (data.absent, data.partial, data.unsure)]
        labelled = None if data.labelled is None else sorted(data.labelled)
        digest.update(json.dumps([known, labelled, list(data.frequency)]).encode())
        self.fingerprint = digest.hexdigest()

    @property
    def former_fingerprint(self) -> str:
        """What earlier versions wrote as the fingerprint: that of the boxes alone."""
        return self._of_boxes

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> Boxed:
        """Read an image with its boxes.

        Raises:
            BadSample: the image cannot be decoded, or its size is not the one its boxes were drawn for.
        """
        key = str(self.data.ids[index])
        try:
            image = self.data.image(index)
        except OtherSize as error:
            raise BadSample(Broken(self.data.name, key, "other_size", str(error))) from error
        except BadInput as error:
            if isinstance(error.__cause__, BadImage):
                raise BadSample(Broken(self.data.name, key, error.__cause__.cause, str(error))) from error
            raise
        return Boxed(key, index, image, self.data.objects[index])

    def where(self, index: int) -> str:
        """Name of an image in the set."""
        return f"{self.data.name}/{self.data.ids[index]}"


def training_set(config: BoxDataConfig) -> tuple[DetectionSet, str]:
    """The training set of a run, without forbidden names and broken boxes, and a message about what was left out.

    Raises:
        BadInput: the set cannot be read; more boxes are broken than good; nothing is left.
    """
    data, broken = read_training(Path(config.train), Path(config.images) if config.images else None)
    num = sum(map(len, data.objects))
    if broken.counts.total() > num:
        raise BadInput(
            f"{config.train}: {broken.counts.total()} of {num + broken.counts.total()} boxes are broken: {broken}; "
            "boxes are [x, y, width, height] in pixels of the image"
        )
    left_out = forbidden_names(config.forbidden, data)
    held: DetectionSet = suite.held(without(data, left_out), config.exif_orientation)
    if not any(held.objects):
        raise BadInput(f"{config.train}: every box has a forbidden name (data.forbidden {config.forbidden})")
    said = [f"{broken.counts.total()} boxes are left out: {broken}"] if broken.counts else []
    said += [f"{len(left_out)} names are left out, and their boxes"] if left_out else []
    return held, "; ".join(said)


def forbidden_names(given: str, data: DetectionSet) -> frozenset[int]:
    """Classes of a set that are left out of training.

    Raises:
        BadInput: `rare` for a set without rare classes; a file that is missing, or names nothing in the set.
    """
    if not given:
        return frozenset()
    if given == RARE:
        found = frozenset(label for label, frequency in enumerate(data.frequency) if frequency == "r")
        if not found:
            raise BadInput(
                f"data.forbidden is rare, and no category of {data.name} has the frequency 'r' of LVIS's format, with "
                "neg_category_ids; name a file instead"
            )
        return found
    names = {canonicalize(line) for line in lines_of(Path(given))}
    found = frozenset(label for label, name in enumerate(data.classes) if canonicalize(name) in names)
    if not found:
        raise BadInput(f"data.forbidden {given} names no category of {data.name}, for example {data.classes[0]!r}")
    return found


def without(data: DetectionSet, classes: frozenset[int]) -> DetectionSet:
    """The set without some classes: their boxes are removed, and they are never negatives."""
    if not classes:
        return data
    labelled = (frozenset(range(len(data.classes))) if data.labelled is None else data.labelled) - classes
    objects = [[box for box in own if box.label not in classes] for own in data.objects]
    return replace(data, objects=objects, labelled=labelled, absent=[own - classes for own in data.absent])


def known_of(data: DetectionSet, part: Part) -> frozenset[int]:
    """Classes that are fully labelled in a part of a picture: every object of such a class in this part has a box.

    In LVIS: classes that the image lists as absent, and classes of its boxes except those labelled only in part. In
    other sets: every labelled class. Classes of crowds and of broken boxes are left out.
    """
    everything = frozenset(range(len(data.classes)))
    if part.image is None:
        return everything
    if data.frequency:
        there = frozenset(box.label for box in data.objects[part.image])
        known = data.absent[part.image] | (there - data.partial[part.image] if data.partial else there)
    else:
        known = everything if data.labelled is None else data.labelled
    unsure = data.unsure[part.image] if data.unsure else frozenset()
    return known - part.crowds - unsure


def negatives_of(data: DetectionSet, picture: Picture) -> list[int]:
    """Sorted classes that have no box in a picture and are certainly absent from at least one of its parts."""
    there = {label for labels in picture.labels for label in labels}
    images = [part for part in picture.parts if part.image is not None]
    return sorted(frozenset().union(*(known_of(data, part) for part in images)) - there)


@dataclass(frozen=True)
class BoxBatch:
    """One rank's share of a batch of pictures. M and Q are the largest numbers of objects and names in one."""

    pixels: Tensor  # uint8 [B, 3, S, S]
    boxes: Tensor  # float32 [B, M, 4], centres and sizes as fractions of the square's side
    labels: Tensor  # bool [B, M, Q]: which names an object has; a row without any is padding
    queries: Tensor  # int64 [B, Q]: rows of the texts; -1 where an image has fewer names
    known: Tensor  # bool [B, P, Q]: names fully labelled in a part of a picture, so absent where they have no box
    sides: Tensor  # int64 [B]: n of a picture of n x n parts; P is the largest number of parts
    texts: Tensor  # int64 [U, T] ids
    keys: Sequence[str]
    broken: Sequence[Broken] = ()

    def to(self, device: torch.device | str) -> BoxBatch:
        """The batch on a device."""
        return self._map(lambda x: x.to(device, non_blocking=True))

    def pin_memory(self) -> BoxBatch:
        """The same in page-locked memory."""
        return self._map(lambda x: x.pin_memory())

    def _map(self, function: Callable[[Tensor], Tensor]) -> BoxBatch:
        pixels, boxes, labels, queries, known, sides, texts = map(
            function,
            (self.pixels, self.boxes, self.labels, self.queries, self.known, self.sides, self.texts),
        )
        return BoxBatch(pixels, boxes, labels, queries, known, sides, texts, self.keys, self.broken)


@dataclass(frozen=True)
class Pictures:
    """A `Collate`: for each sample a picture of one or several images, and the names to look for in it."""

    source: BoxedImages
    config: BoxDataConfig
    size: int
    tokenizer: Tokenizer
    interpolation: Interpolation = "bicubic"

    def __call__(self, samples: RankSamples[Boxed]) -> BoxBatch:
        """The batch of these samples."""
        pixels = samples.empty((len(samples), 3, self.size, self.size), dtype=torch.uint8)
        pictures, asked = list[Picture](), list[dict[int, str]]()
        for place, (sample, visit) in enumerate(samples):
            draws = stream("boxes", *visit)
            picture = compose(sample, self._another, draws, self.config, self.size, self.interpolation)
            pixels[place] = picture.pixels
            pictures.append(picture)
            asked.append(self.names_of(picture, visit))
        texts = list(dict.fromkeys(text for own in asked for text in own.values())) or [""]
        rows = {text: row for row, text in enumerate(texts)}
        queries = torch.full((len(asked), max(1, *map(len, asked))), -1)
        for place, own in enumerate(asked):
            queries[place, : len(own)] = torch.tensor([rows[text] for text in own.values()], dtype=torch.int64)
        boxes, labels = _padded(pictures, asked, queries.shape[1])
        known, sides = self._known(pictures, asked, queries.shape[1])
        ids = self.tokenizer(texts)
        return BoxBatch(pixels, boxes, labels, queries, known, sides, ids, samples.keys, samples.broken)

    def names_of(self, picture: Picture, visit: Visit) -> dict[int, str]:
        """Names to look for in a picture, each in a prompt: those of its objects, then some that are absent from it or
        from a part of it."""
        draws, data = stream("names", *visit), self.source.data
        present = sorted({label for labels in picture.labels for label in labels})
        absent = negatives_of(data, picture)
        drawn = draws.permutation(len(absent))[: self.config.negatives].tolist()
        prompts = templates(self.config.templates)
        labels = [*present, *(absent[place] for place in sorted(drawn))]
        chosen = draws.integers(len(prompts), size=len(labels)).tolist()
        return {
            label: prompts[prompt].replace("{}", data.classes[label])
            for label, prompt in zip(labels, chosen, strict=True)
        }

    def _known(self, pictures: Sequence[Picture], asked: Sequence[dict[int, str]], width: int) -> tuple[Tensor, Tensor]:
        """Names that are fully labelled in each part of the pictures, bool [B, P, Q]; and parts per side [B]."""
        most = max(len(picture.parts) for picture in pictures)
        known = torch.zeros(len(pictures), most, width, dtype=torch.bool)
        for place, (picture, own) in enumerate(zip(pictures, asked, strict=True)):
            for row, part in enumerate(picture.parts):
                sure = known_of(self.source.data, part)
                known[place, row, : len(own)] = torch.tensor([label in sure for label in own], dtype=torch.bool)
        return known, torch.tensor([math.isqrt(len(picture.parts)) for picture in pictures])

    def num_bytes(self, num: int) -> int:
        """Bytes of `num` samples: three per pixel, and the ids of the names."""
        return num * (3 * self.size**2 + 8 * self.config.negatives * self.tokenizer.context_length)

    def _another(self, draws: np.random.Generator) -> Boxed | None:
        """A random image of the set; None if three drawn images cannot be decoded."""
        for index in draws.integers(len(self.source), size=3).tolist():
            try:
                return self.source[index]
            except BadSample:
                continue  # reported when it is read as a sample
        return None


def _padded(pictures: Sequence[Picture], asked: Sequence[dict[int, str]], width: int) -> tuple[Tensor, Tensor]:
    """Boxes [B, M, 4] and labels [B, M, Q], padded, of pictures with different numbers of objects."""
    most = max(len(picture.boxes) for picture in pictures)
    boxes, labels = torch.zeros(len(pictures), most, 4), torch.zeros(len(pictures), most, width, dtype=torch.bool)
    for place, (picture, own) in enumerate(zip(pictures, asked, strict=True)):
        columns = {label: column for column, label in enumerate(own)}
        for row, (box, names) in enumerate(zip(picture.boxes, picture.labels, strict=True)):
            boxes[place, row] = torch.tensor(box)
            labels[place, row, [columns[name] for name in names]] = True
    return boxes, labels
