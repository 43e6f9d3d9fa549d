"""Evaluation and training sets of generated objects, in the folder layouts of real data sets.

| folder                          | content                                                             |
| ------------------------------- | ------------------------------------------------------------------- |
| segmentation/objects_bodies     | 12 names on bodies only: heads, badges and ground are ignored       |
| segmentation/objects_whole      | 12 names on whole objects; the ground is ignored                    |
| segmentation/objects_grounds    | 6 grounds; objects are ignored                                      |
| segmentation/objects            | all 18 classes; with a training part                                |
| segmentation/objects_unseen     | the same, with pairs of name and ground that training never shows   |
| classification/objects, _unseen | one object per image, 12 names; with a training part                |
| retrieval/objects               | no two images have the same ground, names and numbers of objects    |
| retrieval/objects/train         | captioned images for training; contents may repeat                  |
| detection/objects, _unseen      | COCO JSON, boxes of 12 names: val; with a training part             |
| vqa/objects                     | questions with one answer each: train, test, unseen                 |
"""

from __future__ import annotations

from itertools import count, islice
from math import comb
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from PIL import Image

from silc.data.objects import BODY, GROUNDS, NAMES, Drawing, Layout, captions, content, draw, lay_out, name_likelihood
from silc.data.scenes import write_json, write_lines
from silc.data.streams import stream
from silc.errors import BadInput

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from silc.data.config import ObjectsConfig

# The second number of an image's seed; it is 0 for training images.
SEGMENTATION, CLASSIFICATION, RETRIEVAL, DETECTION, QUESTIONS = range(1, 6)
LEARNT, TESTED, UNSEEN = range(3)
"""Parts of a set (training, test, unseen pairs): the third number of an image's seed."""
IGNORED = 255
CLASSES = (*NAMES, *GROUNDS)
QUESTIONS_AN_IMAGE = 4
MOST_OF_CONTENTS = 2 / 3
"""A retrieval set shows at most this fraction of all possible contents (`content`); the others hardly ever occur."""


class Shown(NamedTuple):
    """One image of a set: its seed, layout and drawing."""

    seed: tuple[int, ...]
    layout: Layout
    drawing: Drawing


class World(NamedTuple):
    """The source of all images of the sets."""

    config: ObjectsConfig
    seed: int

    def images(self, use: int, part: int, most: int | None = None) -> Iterator[Shown]:
        """Endless images of one part of a set. The unseen part has only pairs that training never shows."""
        for number in count():
            seed = (self.seed, use, part, number)
            layout = lay_out(seed, self.config, unseen=part == UNSEEN, most=most)
            yield Shown(seed, layout, draw(layout, seed, self.config))


def write_sets(
    root: Path,
    config: ObjectsConfig,
    *,
    seed: int,
    num: int = 200,
    num_train: int = 1000,
    num_retrieval: int = 500,
) -> None:
    """Write every set under an empty or new `root`.

    Args:
        num: number of images of each evaluation part.
        num_train: number of images of each training part.
        num_retrieval: number of images of the retrieval set.

    Raises:
        BadInput: there are too few different contents for `num_retrieval`.
    """
    if num_retrieval > (limit := most_retrieval(config)):
        raise BadInput(
            f"{num_retrieval} different retrieval images are more than this world has; ask for at most {limit}"
        )
    world = World(config, seed)
    _write_segmentation(root / "segmentation", world, num, num_train)
    _write_classification(root / "classification", world, num, num_train)
    _write_captions(root / "retrieval/objects", _different(world.images(RETRIEVAL, TESTED)), num_retrieval)
    _write_captions(root / "retrieval/objects/train", world.images(RETRIEVAL, LEARNT), num_train)
    _write_detection(root / "detection/objects", world, {"train": (LEARNT, num_train), "val": (TESTED, num)})
    _write_detection(root / "detection/objects_unseen", world, {"val": (UNSEEN, num)})
    parts = {"train": (LEARNT, num_train), "test": (TESTED, num), "unseen": (UNSEEN, num)}
    _write_questions(root / "vqa/objects", world, parts)


def most_retrieval(config: ObjectsConfig) -> int:
    """How many images a retrieval set can have at most: no two of them show the same."""
    return int(MOST_OF_CONTENTS * _num_contents(config))


def labels(shown: Shown, *, things: bool, ground: bool, bodies: bool = False) -> np.ndarray:
    """Index into CLASSES of each pixel, uint8 [H, W]; other pixels are IGNORED.

    Args:
        things: label the objects.
        ground: label the ground.
        bodies: ignore heads and badges.
    """
    _, layout, drawing = shown
    # The last entry is for the ground, whose number in `drawing.thing` is -1; objects are numbered from 0.
    classes = [thing.name if things else IGNORED for thing in layout.things]
    classes.append(len(NAMES) + layout.ground if ground else IGNORED)
    found = np.array(classes, dtype=np.uint8)[drawing.thing]
    return np.where((drawing.part > BODY) & bodies, np.uint8(IGNORED), found)


def boxes(shown: Shown) -> list[tuple[int, tuple[int, int, int, int], int]]:
    """(name, box, area) of each visible object: box is COCO's [x, y, width, height], area its number of pixels."""
    found = []
    for number, thing in enumerate(shown.layout.things):
        rows, columns = np.nonzero(shown.drawing.thing == number)
        if len(rows):
            x, y = int(columns.min()), int(rows.min())
            found.append((thing.name, (x, y, int(columns.max()) - x + 1, int(rows.max()) - y + 1), len(rows)))
    return found


def questions(shown: Shown) -> list[tuple[str, str, str]]:
    """At most QUESTIONS_AN_IMAGE tuples (question, answer, answer type) on count, presence, ground, name and place."""
    rng = stream("object questions", *shown.seed)
    ground, things = content(shown.layout)
    counts = dict(things)

    def a_name() -> int:
        """A name that is in the image or one that is not, with equal probability."""
        there = rng.random() < 0.5
        return int(rng.choice([name for name in range(len(NAMES)) if (name in counts) == there]))

    def number() -> tuple[str, str, str]:
        name = a_name()
        return f"how many {NAMES[name]}s are there?", str(counts.get(name, 0)), "number"

    def presence() -> tuple[str, str, str]:
        name = a_name()
        return f"is there a {NAMES[name]}?", "yes" if name in counts else "no", "yes/no"

    kinds: list[Callable[[], tuple[str, str, str]]] = [
        number,
        presence,
        lambda: ("what is the ground?", GROUNDS[ground], "ground"),
    ]
    if len(counts) == 1:
        kinds.append(lambda: (f"what is on the {GROUNDS[ground]}?", NAMES[things[0][0]], "name"))
    single = [thing for thing in shown.layout.things if counts[thing.name] == 1]
    if len(single) > 1:
        one, other = (single[i] for i in rng.permutation(len(single))[:2].tolist())
        left = one.discs[0][1].x < other.discs[0][1].x
        kinds.append(
            lambda: (f"is the {NAMES[one.name]} left of the {NAMES[other.name]}?", "yes" if left else "no", "yes/no")
        )
    asked = [kinds[i]() for i in rng.permutation(len(kinds)).tolist()]
    return asked[:QUESTIONS_AN_IMAGE]


def _write_segmentation(root: Path, world: World, num: int, num_train: int) -> None:
    kinds: dict[str, tuple[tuple[str, ...], int, dict[str, bool]]] = {
        "objects_bodies": (NAMES, 0, {"things": True, "ground": False, "bodies": True}),
        "objects_whole": (NAMES, 0, {"things": True, "ground": False}),
        "objects_grounds": (GROUNDS, len(NAMES), {"things": False, "ground": True}),
        "objects": (CLASSES, 0, {"things": True, "ground": True}),
    }
    parts = [(name, "", TESTED, num, kind) for name, kind in kinds.items()]
    parts.append(("objects", "train", LEARNT, num_train, kinds["objects"]))
    parts.append(("objects_unseen", "", UNSEEN, num, kinds["objects"]))
    for name, folder, part, many, (classes, first, asked) in parts:
        images, maps = root / name / folder / "images", root / name / folder / "labels"
        images.mkdir(parents=True)
        maps.mkdir(parents=True)
        for number, shown in enumerate(islice(world.images(SEGMENTATION, part), many)):
            found = labels(shown, **asked)
            Image.fromarray(shown.drawing.pixels).save(images / f"{number:05d}.png")
            Image.fromarray(np.where(found == IGNORED, found, found - first)).save(maps / f"{number:05d}.png")
        write_lines(root / name / "classes.txt", classes)


def _write_classification(root: Path, world: World, num: int, num_train: int) -> None:
    splits = (
        ("objects", "train", LEARNT, num_train),
        ("objects", "test", TESTED, num),
        ("objects_unseen", "test", UNSEEN, num),
    )
    for name, split, part, many in splits:
        folders = [root / name / split / f"{number:02d}-{one}" for number, one in enumerate(NAMES)]
        for folder in folders:
            folder.mkdir(parents=True)
        for number, shown in enumerate(islice(world.images(CLASSIFICATION, part, most=1), many)):
            Image.fromarray(shown.drawing.pixels).save(folders[shown.layout.things[0].name] / f"{number:05d}.png")
        write_lines(root / name / "classes.txt", NAMES)


def _write_captions(folder: Path, images: Iterator[Shown], num: int) -> None:
    (folder / "images").mkdir(parents=True)
    entries: list[dict[str, Any]] = []
    for number, shown in enumerate(islice(images, num)):
        name = f"images/{number:05d}.png"
        Image.fromarray(shown.drawing.pixels).save(folder / name)
        entries.append({"image": name, "captions": list(captions(shown.layout, shown.seed, noise=0))})
    write_json(folder / "captions.json", entries)


def _different(images: Iterator[Shown]) -> Iterator[Shown]:
    """The images with distinct contents: the first one of each content."""
    told = set()
    for shown in images:
        if content(shown.layout) not in told:
            told.add(content(shown.layout))
            yield shown


def _num_contents(config: ObjectsConfig) -> int:
    """Number of different contents that training images can have: multisets of names on each ground."""
    names = [int((name_likelihood(ground, config.at_home, unseen=False) > 0).sum()) for ground in range(len(GROUNDS))]
    return sum(comb(own + most - 1, most) for own in names for most in range(1, config.most + 1))


def _write_detection(folder: Path, world: World, parts: dict[str, tuple[int, int]]) -> None:
    (folder / "annotations").mkdir(parents=True)
    for name, (part, many) in parts.items():
        (folder / name).mkdir()
        images: list[dict[str, Any]] = []
        found: list[dict[str, Any]] = []
        for number, shown in enumerate(islice(world.images(DETECTION, part), many), start=1):
            file, size = f"{number:05d}.png", world.config.size
            Image.fromarray(shown.drawing.pixels).save(folder / name / file)
            images.append({"id": number, "file_name": file, "width": size, "height": size})
            for thing, box, area in boxes(shown):
                found.append({"id": len(found) + 1, "image_id": number, "category_id": thing + 1, "bbox": list(box)})
                found[-1] |= {"area": area, "iscrowd": 0}
        categories = [{"id": number, "name": one} for number, one in enumerate(NAMES, start=1)]
        written = {"images": images, "annotations": found, "categories": categories}
        write_json(folder / "annotations" / f"instances_{name}.json", written)


def _write_questions(folder: Path, world: World, parts: dict[str, tuple[int, int]]) -> None:
    answers = set()
    for name, (part, many) in parts.items():
        (folder / name / "images").mkdir(parents=True)
        asked: list[dict[str, Any]] = []
        for number, shown in enumerate(islice(world.images(QUESTIONS, part), many)):
            file = f"images/{number:05d}.png"
            Image.fromarray(shown.drawing.pixels).save(folder / name / file)
            for question, answer, kind in questions(shown):
                entry = {"question_id": len(asked), "image": file, "question": question, "answer": answer}
                asked.append({**entry, "answers": [answer], "answer_type": kind})
                answers.add(answer)
        write_json(folder / name / "questions.json", asked)
    write_lines(folder / "answers.txt", sorted(answers))
