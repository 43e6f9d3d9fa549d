"""Images with boxes as training takes them: which there are, which names each is asked, and how both become a batch."""

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
"""Images that are mixed and read as one shard is."""
RARE = "rare"


@dataclass(frozen=True)
class Boxed:
    """An image and what is in it."""

    key: str
    index: int
    image: Image.Image
    objects: Sequence[Box]


class BoxedImages(Source[Boxed]):
    """The images of a detection set; one that cannot be decoded, or is of another size, is replaced by another."""

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
        """Of the boxes alone."""
        return self._of_boxes

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> Boxed:
        """
        Raises:
            BadSample: the image cannot be decoded, or has another size than its boxes were drawn on.
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
        """Its name in the set."""
        return f"{self.data.name}/{self.data.ids[index]}"


def training_set(config: BoxDataConfig) -> tuple[DetectionSet, str]:
    """What a run learns from, without forbidden names and broken boxes, and what is to be told of these.

    Raises:
        BadInput: it cannot be read; more of its boxes are broken than are not; nothing is left.
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
    """Classes of a set that training is not to meet.

    Raises:
        BadInput: `rare` of a set that calls none so; a file that is not there, or names nothing in the set.
    """
    if not given:
        return frozenset()
    if given == RARE:
        found = frozenset(label for label, frequency in enumerate(data.frequency) if frequency == "r")
        if not found:
            raise BadInput(
                f"data.forbidden is rare, and no category of {data.name} has the frequency 'r', in LVIS's form with "
                "neg_category_ids; name a file"
            )
        return found
    names = {canonicalize(line) for line in lines_of(Path(given))}
    found = frozenset(label for label, name in enumerate(data.classes) if canonicalize(name) in names)
    if not found:
        raise BadInput(f"data.forbidden {given} names no category of {data.name}, {data.classes[0]!r} for one")
    return found


def without(data: DetectionSet, classes: frozenset[int]) -> DetectionSet:
    """A set of which nothing is known of some classes: their boxes are gone, and they are no negatives."""
    if not classes:
        return data
    labelled = (frozenset(range(len(data.classes))) if data.labelled is None else data.labelled) - classes
    objects = [[box for box in own if box.label not in classes] for own in data.objects]
    return replace(data, objects=objects, labelled=labelled, absent=[own - classes for own in data.absent])


def known_of(data: DetectionSet, part: Part) -> frozenset[int]:
    """Classes of which every object that a part of a picture shows has a box: what has none is none of them.

    Of LVIS's sets those that its image lists as absent, and those of its boxes that are not labelled in part; else
    every class that is labelled. Classes of crowds and of broken boxes are none of them.
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
    """Classes, in order, that have no box in a picture and surely are not in one of its parts."""
    there = {label for labels in picture.labels for label in labels}
    images = [part for part in picture.parts if part.image is not None]
    return sorted(frozenset().union(*(known_of(data, part) for part in images)) - there)


@dataclass(frozen=True)
class BoxBatch:
    """One rank's share of a batch of pictures. M and Q are the most objects and names of one of them."""

    pixels: Tensor  # uint8 [B, 3, S, S]
    boxes: Tensor  # float32 [B, M, 4], centres and sizes in shares of the square
    labels: Tensor  # bool [B, M, Q]: which names an object has; a row without any is padding
    queries: Tensor  # int64 [B, Q]: rows of the texts; -1 where an image has fewer names
    known: Tensor  # bool [B, P, Q]: which names are surely absent in a part of a picture, where they have no box
    sides: Tensor  # int64 [B]: n of a picture of n x n parts, of which P has room for the most
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
    """A `Collate`: a picture for each image, of one or several, and the names that it is asked."""

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
        """Names that a picture is asked, each in a prompt: those of its objects, then some that are absent from it or
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
        """What is known of the names [B, P, Q] of each picture's parts, and how many are on its side [B]."""
        most = max(len(picture.parts) for picture in pictures)
        known = torch.zeros(len(pictures), most, width, dtype=torch.bool)
        for place, (picture, own) in enumerate(zip(pictures, asked, strict=True)):
            for row, part in enumerate(picture.parts):
                sure = known_of(self.source.data, part)
                known[place, row, : len(own)] = torch.tensor([label in sure for label in own], dtype=torch.bool)
        return known, torch.tensor([math.isqrt(len(picture.parts)) for picture in pictures])

    def num_bytes(self, num: int) -> int:
        """Three bytes a pixel, and ids of the names."""
        return num * (3 * self.size**2 + 8 * self.config.negatives * self.tokenizer.context_length)

    def _another(self, draws: np.random.Generator) -> Boxed | None:
        """Any image of the set, or none where those that are drawn cannot be decoded."""
        for index in draws.integers(len(self.source), size=3).tolist():
            try:
                return self.source[index]
            except BadSample:
                continue  # it is told where its own turn comes
        return None


def _padded(pictures: Sequence[Picture], asked: Sequence[dict[int, str]], width: int) -> tuple[Tensor, Tensor]:
    """Boxes [B, M, 4] and labels [B, M, Q] of pictures with different numbers of objects."""
    most = max(len(picture.boxes) for picture in pictures)
    boxes, labels = torch.zeros(len(pictures), most, 4), torch.zeros(len(pictures), most, width, dtype=torch.bool)
    for place, (picture, own) in enumerate(zip(pictures, asked, strict=True)):
        columns = {label: column for column, label in enumerate(own)}
        for row, (box, names) in enumerate(zip(picture.boxes, picture.labels, strict=True)):
            boxes[place, row] = torch.tensor(box)
            labels[place, row, [columns[name] for name in names]] = True
    return boxes, labels
