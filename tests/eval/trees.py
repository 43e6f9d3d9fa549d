"""Miniature trees of data sets, and a model that reads a class off a colour and knows every name it is given."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from silc.preprocess import Preprocess

SIZE = 24


def colour(index: int) -> tuple[int, int, int]:
    return index % 16 * 16, index // 16 % 16 * 16, index // 256 * 16


@dataclass
class NameTokenizer:
    """The longest known name in a text is its only token."""

    names: list[str]
    context_length: int = 1
    eos_id: int = 0

    @property
    def vocab_size(self) -> int:
        return len(self.names)

    def __call__(self, texts):
        found = []
        for text in texts:
            spelled = f" {text.rstrip('. ')} "
            inside = [(len(name), i) for i, name in enumerate(self.names) if f" {name} " in spelled]
            inside += [(len(name), i) for i, name in enumerate(self.names) if f" {name}s " in spelled]
            found.append([max(inside)[1] if inside else 0])
        return torch.tensor(found)


@dataclass
class NameReader:
    """A `DualEncoder` with one-hot features: of the name in a text, of the colour of a pixel."""

    tokenizer: NameTokenizer
    preprocess: Preprocess = field(default_factory=lambda: Preprocess(SIZE, interpolation="cv2_bilinear"))
    name: str = "reader"
    patch_size: int = 1
    readouts: tuple[str, ...] = ("colour",)
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    def encode_dense(self, images, readout):
        levels = ((images * 0.5 + 0.5) * 255 / 16).round().long()
        index = levels[:, 0] + 16 * levels[:, 1] + 256 * levels[:, 2]
        return F.one_hot(index.clamp(max=self.tokenizer.vocab_size - 1), self.tokenizer.vocab_size).float()

    def encode_pooled(self, images):
        return self.encode_dense(images, "colour").mean((1, 2))

    def encode_image(self, images):
        return F.normalize(self.encode_pooled(images), dim=-1)

    def encode_text(self, ids, *, normalize=True):
        return F.one_hot(ids[:, 0], self.tokenizer.vocab_size).float()


def flat(path, index, size=(SIZE, SIZE)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour(index)).save(path, "PNG")  # lossless, whatever the suffix says


def painted(path, classes):
    path.parent.mkdir(parents=True, exist_ok=True)
    table = np.array([colour(index) for index in range(1024)], np.uint8)
    Image.fromarray(table[classes]).save(path, "PNG")


def labelled(path, values, mode="L"):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(values.astype(np.uint8))
    if mode == "P":
        image.putpalette([7] * 768)
    image.save(path)


def scene(truth_classes, offset, zero):
    """Truth over 24 x 32 of two classes, the prediction wrong in a strip, and what mIoU that makes.

    Left 16 columns are the first class, right 16 the second; columns 12 to 15 look like the second; row 0 is ignored.
    """
    first, second = truth_classes
    truth = np.full((24, 32), first)
    truth[:, 16:] = second
    seen = truth.copy()
    seen[:, 12:16] = second
    stored = truth + offset
    stored[0] = zero
    miou = (12 / 16 + 16 / 20) / 2
    return seen, stored, miou


def check(record, miou, classes):
    assert record["metrics"]["miou"] == pytest.approx(miou)
    assert record["metrics"]["pixel_acc"] == pytest.approx(28 / 32)
    assert record["protocol"]["num_classes"] == classes
    assert record["protocol"]["window"] == SIZE
