"""Questions about images: VQA v2, GQA and TextVQA as their archives unpack, easy-VQA's folders, and own folders.

vqa/shelves/test/questions.json      a list of {"image": file, "question": text, "answer": text} or, with several
                                     annotators, "answers": [text, ...]; "question_type", "answer_type" are optional
vqa/shelves/test/images/1.jpg        images; "image" is a path from the folder of questions.json
vqa/shelves/train/...                the same, for training
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from silc.errors import BadInput
from silc.eval.datasets import Lazy, QuestionSet, Source
from silc.eval.files import read_image, text_of

NEEDED = (
    "{folder} holds no questions; unpack VQA v2, GQA or TextVQA there, or add {split}/questions.json: "
    'a list of {{"image": file, "question": text, "answer": text}}'
)


@dataclass(frozen=True)
class Asked:
    """A question as it stands in a file."""

    image: Path
    question: str
    answers: Sequence[str]
    types: Mapping[str, str]


@dataclass(frozen=True)
class Part:
    """A part of a set in some layout: the files it needs, and the function that reads its questions."""

    needs: Sequence[Path]
    read: Callable[[], Iterable[Asked]]


def official(root: Path) -> list[Source[QuestionSet]]:
    """The sources of VQA v2, GQA and TextVQA."""
    return [_source(name, layout(root / name, False)) for name, layout in LAYOUTS.items()]


def folder(path: Path) -> Source[QuestionSet]:
    """The source of a user's own folder."""
    return _source(path.name, own(path, False))


def read_training(place: Path) -> QuestionSet:
    """The training part of a folder in any of the layouts.

    Raises:
        BadInput: the folder holds no training part, or a file in it is missing or broken.
    """
    for layout in (own, *LAYOUTS.values()):
        part = layout(place, True)
        if part.needs[0].is_file():
            return read(place.name, part)
    raise BadInput(NEEDED.format(folder=place, split="train"))


def read(name: str, part: Part) -> QuestionSet:
    """The questions of a part.

    Raises:
        BadInput: a file or an image is missing; a question has no answer; there is no question.
    """
    if gone := next((path for path in part.needs if not path.exists()), None):
        raise BadInput(f"{gone} is missing; {name} needs it for its questions")
    file = part.needs[0]
    try:
        asked = list(part.read())
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError) as error:
        raise BadInput(f"{file} does not hold questions as its name says: {error!r}") from error
    if not asked:
        raise BadInput(f"{file} holds no question")
    places: dict[Path, int] = {}
    for number, one in enumerate(asked, start=1):
        if not isinstance(one.question, str) or not one.question.strip():
            raise BadInput(f"{file}: question {number} is no text: {one.question!r}; remove it or write its text")
        if not is_answered(one.answers):
            raise BadInput(
                f"{file}: question {number}, {one.question!r}, has no answer that is a text: {one.answers!r:.60}; "
                "remove it, or write its answer in quotes"
            )
        places.setdefault(one.image, len(places))
    if gone := next((path for path in places if not path.is_file()), None):
        raise BadInput(f"{file} asks about {gone}, which does not exist; put the images there")
    kinds = dict.fromkeys(kind for one in asked for kind in one.types)
    types = {kind: [one.types.get(kind, "") for one in asked] for kind in kinds}
    return QuestionSet(
        name,
        Lazy(list(places), read_image),
        [places[one.image] for one in asked],
        [one.question for one in asked],
        [one.answers for one in asked],
        types,
        files=[*part.needs[:1], *places],
    )


def is_answered(answers: Any) -> bool:
    """Whether the answers are a list of texts with at least one that is not blank."""
    return isinstance(answers, list) and all(isinstance(text, str) for text in answers) and any(map(str.strip, answers))


def vqav2(place: Path, train: bool) -> Part:
    """VQA v2: questions and annotations in two files, COCO's photographs in this folder or in coco/ beside it."""
    split = "train2014" if train else "val2014"
    questions = place / f"v2_OpenEnded_mscoco_{split}_questions.json"
    annotations = place / f"v2_mscoco_{split}_annotations.json"
    photographs = next((at for at in (place / split, place.parent / "coco" / split) if at.is_dir()), place / split)

    def asked() -> Iterable[Asked]:
        truth = {one["question_id"]: one for one in _json(annotations)["annotations"]}
        for one in _json(questions)["questions"]:
            told = truth.get(one["question_id"])
            if told is None:
                raise BadInput(
                    f"{annotations} has no answers to question {one['question_id']}; download both files again"
                )
            answers = [each["answer"] for each in told["answers"]]
            types = {kind: told[kind] for kind in ("question_type", "answer_type")}
            yield Asked(photographs / f"COCO_{split}_{one['image_id']:012d}.jpg", one["question"], answers, types)

    return Part([questions, annotations, photographs], asked)


def gqa(place: Path, train: bool) -> Part:
    """GQA: a dictionary of balanced questions, photographs in images/."""
    file = place / f"{'train' if train else 'testdev'}_balanced_questions.json"

    def asked() -> Iterable[Asked]:
        for one in _json(file).values():
            types = {"question_type": one["types"]["structural"], "answer_type": one["types"]["semantic"]}
            yield Asked(place / "images" / f"{one['imageId']}.jpg", one["question"], [one["answer"]], types)

    return Part([file, place / "images"], asked)


def textvqa(place: Path, train: bool) -> Part:
    """TextVQA 0.5.1: ten answers per question; the photographs of val are in train_images/ too."""
    file = place / f"TextVQA_0.5.1_{'train' if train else 'val'}.json"

    def asked() -> Iterable[Asked]:
        for one in _json(file)["data"]:
            yield Asked(place / "train_images" / f"{one['image_id']}.jpg", one["question"], one["answers"], {})

    return Part([file, place / "train_images"], asked)


LAYOUTS: Mapping[str, Callable[[Path, bool], Part]] = {"vqav2": vqav2, "gqa": gqa, "textvqa": textvqa}
"""The sets' layouts, by the folder that they are unpacked to."""


def own(place: Path, train: bool) -> Part:
    """A folder with {train,test}/questions.json, easy-VQA's [question, answer, image id] included."""
    file = place / ("train" if train else "test") / "questions.json"

    def asked() -> Iterable[Asked]:
        for one in _json(file):
            if isinstance(one, list):
                question, answer, image = one
                yield Asked(file.parent / "images" / f"{image}.png", question, [answer], {})
                continue
            answers = one.get("answers") or [one.get("answer")]
            types = {kind: str(one[kind]) for kind in ("question_type", "answer_type") if kind in one}
            yield Asked(file.parent / one["image"], one["question"], answers, types)

    return Part([file], asked)


def _json(file: Path) -> Any:
    return json.loads(text_of(file))


def _source(name: str, part: Part) -> Source[QuestionSet]:
    return Source("vqa", name, part.needs, partial(read, name, part))
