"""Images with texts for training: reading the tasks, choosing an answer at each visit, and making batches."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image

from silc.batch import Broken
from silc.data.config import DataConfig
from silc.data.pairs import BadSample, Source
from silc.data.remote import without_secrets
from silc.data.sources import open_pairs
from silc.data.streams import stream
from silc.errors import BadInput
from silc.eval.captioning import CAPTION
from silc.eval.datasets import QuestionSet, RetrievalSet
from silc.eval.layouts import captions, questions
from silc.eval.suite import held
from silc.images import BadImage

if TYPE_CHECKING:
    from torch import Tensor

    from silc.data.loader import RankSamples
    from silc.data.pairs import Pairs
    from silc.heads.decoder.config import TextDataConfig
    from silc.heads.decoder.texts import Texts
    from silc.preprocess import Preprocess

BLOCK = 1000
"""Questions in a block, which is shuffled and read like a shard."""
TEXTS_FOR_TOKENIZER = 500_000


@dataclass(frozen=True)
class Told:
    """A sample: an image, the question about it, and the possible answers."""

    key: str
    image: Image.Image
    prefix: str
    question: str
    answers: Sequence[str]
    """Possible answers; each visit takes one of them."""


class Tellings(Source[Told]):
    """One task: a prefix and its samples."""

    prefix: str

    def some(self, limit: int) -> Iterator[tuple[str, Sequence[str]]]:
        """Questions and possible answers of at most `limit` samples."""
        raise NotImplementedError


class Captioned(Tellings):
    """Captions of a source of pairs: tar shards, or a folder with a table."""

    def __init__(self, prefix: str, pairs: Pairs) -> None:
        self.prefix, self.pairs = prefix, pairs
        self.blocks, self.fingerprint, self.faults = pairs.blocks, pairs.fingerprint, pairs.faults

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> Told:
        pair = self.pairs[index]
        return Told(pair.key, Image.fromarray(pair.pixels), self.prefix, "", pair.captions)

    def where(self, index: int) -> str:
        return self.pairs.where(index)

    def read_ahead(self, indices: Sequence[int]) -> None:
        self.pairs.read_ahead(indices)

    def some(self, limit: int) -> Iterator[tuple[str, Sequence[str]]]:
        return (("", [caption]) for caption in self.pairs.captions(limit))


class Answered(Tellings):
    """Questions of a dataset, or captions of a dataset in its authors' layout; an unreadable image is replaced."""

    def __init__(self, prefix: str, data: QuestionSet) -> None:
        self.prefix, self.data = prefix, data
        starts = np.arange(0, len(data), BLOCK)
        self.blocks = np.minimum(len(data) - starts, BLOCK).astype(np.int64)
        digest = hashlib.sha256()
        for about, question, answers in zip(data.about, data.questions, data.answers, strict=True):
            digest.update("\0".join([str(about), question, *answers, "\n"]).encode(errors="replace"))
        self.fingerprint = digest.hexdigest()

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> Told:
        """Read a sample.

        Raises:
            BadSample: the image cannot be decoded.
        """
        try:
            image = self.data.images[self.data.about[index]]
        except BadInput as error:
            if isinstance(error.__cause__, BadImage):
                raise BadSample(Broken(self.data.name, str(index), error.__cause__.cause, str(error))) from error
            raise
        answers = [text for text in self.data.answers[index] if text.strip()]  # empty answers are never learnt
        return Told(self.where(index), image, self.prefix, self.data.questions[index], answers)

    def where(self, index: int) -> str:
        return f"{self.data.name}/{index}"

    def some(self, limit: int) -> Iterator[tuple[str, Sequence[str]]]:
        for index in range(min(limit, len(self))):
            place = index * len(self) // min(limit, len(self))
            yield self.data.questions[place], self.data.answers[place]


class Joined(Source[Told]):
    """Several tasks, one after the other; the loader shuffles their blocks like shards."""

    def __init__(self, parts: Sequence[Tellings]) -> None:
        self.parts = parts
        self.blocks = np.concatenate([part.blocks for part in parts])
        self.ends = np.cumsum([len(part) for part in parts])
        named = "\n".join(f"{part.prefix} {part.fingerprint}" for part in parts)
        self.fingerprint = hashlib.sha256(named.encode()).hexdigest()
        self.faults = [fault for part in parts for fault in part.faults]

    def __len__(self) -> int:
        return int(self.ends[-1])

    def __getitem__(self, index: int) -> Told:
        part, place = self._locate(index)
        return part[place]

    def where(self, index: int) -> str:
        part, place = self._locate(index)
        return part.where(place)

    def read_ahead(self, indices: Sequence[int]) -> None:
        asked: dict[int, list[int]] = {}
        for index in indices:
            number = int(np.searchsorted(self.ends, index, side="right"))
            asked.setdefault(number, []).append(self._locate(index)[1])
        for number, places in asked.items():
            self.parts[number].read_ahead(places)

    @property
    def prefixes(self) -> list[str]:
        """Prefixes of the tasks, each once."""
        return list(dict.fromkeys(part.prefix for part in self.parts))

    def texts(self) -> Iterator[str]:
        """Texts that a tokenizer is trained on."""
        yield from self.prefixes
        for part in self.parts:
            for question, answers in part.some(TEXTS_FOR_TOKENIZER // len(self.parts)):
                yield from filter(None, (question, *answers))

    def _locate(self, index: int) -> tuple[Tellings, int]:
        if not 0 <= index < len(self):
            raise IndexError(index)
        number = int(np.searchsorted(self.ends, index, side="right"))
        return self.parts[number], int(index - self.ends[number] + len(self.parts[number]))


def opened(config: TextDataConfig) -> Joined:
    """Open the training data of a run.

    Raises:
        BadInput: a part of data.train is no PREFIX:PLACE, or what it names cannot be used.
    """
    return Joined([_task(prefix, place, config) for prefix, place in named(config.train)])


def named(train: str) -> list[tuple[str, str]]:
    """Split data.train into its tasks, each a prefix and a place. A place may contain commas.

    Raises:
        BadInput: a part is no PREFIX:PLACE.
    """
    found = []
    for part in re.split(r",(?=\s*[A-Za-z_]\w*:(?!//))", train):
        prefix, _, place = (side.strip() for side in part.partition(":"))
        if not place or not prefix.isidentifier():
            raise BadInput(f"data.train {part!r} is no PREFIX:PLACE; write e.g. 'caption:DATA/coco,vqa:DATA/vqav2'")
        found.append((prefix, place))
    return found


def shown(train: str) -> str:
    """data.train for logs and files: without the signatures and passwords of addresses."""
    return ",".join(f"{prefix}:{without_secrets(place)}" for prefix, place in named(train))


def _task(prefix: str, place: str, config: TextDataConfig) -> Tellings:
    if prefix != CAPTION:
        return Answered(prefix, held(questions.read_training(Path(place)), config.exif_orientation))
    if (official := captions.read_training(Path(place))) is not None:
        return Answered(prefix, as_questions(held(official, config.exif_orientation)))
    return Captioned(prefix, open_pairs(DataConfig(train=place, exif_orientation=config.exif_orientation), seed=0))


def as_questions(data: RetrievalSet) -> QuestionSet:
    """Turn captions into answers to empty questions."""
    every = range(len(data.images))
    return QuestionSet(data.name, data.images, every, [""] * len(every), data.captions, {}, files=data.files)


@dataclass(frozen=True)
class TextBatch:
    """One rank's share of a batch."""

    pixels: Tensor  # uint8 [B, 3, S, S]
    ids: Tensor  # int64 [B, L], padded at the right
    answers: Tensor  # bool [B, L]: tokens that are learnt
    keys: Sequence[str]
    broken: Sequence[Broken] = ()

    def to(self, device: torch.device | str) -> TextBatch:
        """The batch on a device."""
        return self._map(lambda x: x.to(device, non_blocking=True))

    def pin_memory(self) -> TextBatch:
        """The same in page-locked memory."""
        return self._map(lambda x: x.pin_memory())

    def _map(self, function: Callable[[Tensor], Tensor]) -> TextBatch:
        pixels, ids, answers = map(function, (self.pixels, self.ids, self.answers))
        return TextBatch(pixels, ids, answers, self.keys, self.broken)


@dataclass(frozen=True)
class ToldTexts:
    """A `Collate`: images squashed to the square, their prompts, and one answer drawn for each image."""

    preprocess: Preprocess
    text: Texts

    def __call__(self, samples: RankSamples[Told]) -> TextBatch:
        """The batch of these samples."""
        size = self.preprocess.size
        pixels = samples.empty((len(samples), 3, size, size), dtype=torch.uint8)
        rows = list[tuple[list[int], list[int]]]()
        for place, (told, visit) in enumerate(samples):
            pixels[place] = self.preprocess(told.image)
            chosen = told.answers[int(stream("answer", *visit).integers(len(told.answers)))]
            rows.append((self.text.prompt(told.prefix, told.question), self.text.answer(chosen)))
        ids, answers = filled(rows, self.text.tokenizer.pad)
        return TextBatch(pixels, ids, answers, samples.keys, samples.broken)

    def num_bytes(self, num: int) -> int:
        """Bytes of `num` samples: three per pixel, and the ids."""
        return num * (3 * self.preprocess.size**2 + 9 * self.text.length)


def filled(rows: Sequence[tuple[Sequence[int], Sequence[int]]], pad: int) -> tuple[Tensor, Tensor]:
    """Padded ids int64 [B, L] of prompts and answers, and a mask bool [B, L] of the answers' tokens."""
    longest = max(len(prompt) + len(answer) for prompt, answer in rows)
    ids = torch.full((len(rows), longest), pad)
    answers = torch.zeros(len(rows), longest, dtype=torch.bool)
    for row, (prompt, answer) in enumerate(rows):
        text: Any = [*prompt, *answer]
        ids[row, : len(text)] = torch.tensor(text)
        answers[row, len(prompt) : len(text)] = True
    return ids, answers
