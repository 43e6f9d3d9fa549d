"""Encoders that need no training, and data sets small enough to be checked by hand."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from silc import checks, evaluation, loading
from silc.cli import main
from silc.errors import BadInput
from silc.models.readouts import READOUTS
from silc.preprocess import Preprocess
from tests.eval.trees import NameReader, NameTokenizer

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    from silc.models.image import ImageTower

FOUR = "*-zs,*-fewshot,*-retrieval,*-zs-seg"
"""The tasks whose scores on these sets are known; others that the table has are not asked for."""
WORDS = [f"w{i}" for i in range(40)]


def colour_of(index: int) -> tuple[int, int, int]:
    """A colour that no other of the 40 words has."""
    return index * 6, (index * 91) % 256, 255 - index * 6


@dataclass
class WordTokenizer:
    """The first known word of a text is its only token; 40 stands for none."""

    vocab_size: int = 41
    context_length: int = 1
    eos_id: int = 40
    pad_id: int = 40

    def __call__(self, texts: Sequence[str]) -> Tensor:
        firsts = [[WORDS.index(word) for word in text.replace(".", "").split() if word in WORDS] for text in texts]
        return torch.tensor([[found[0] if found else self.pad_id] for found in firsts])


@dataclass
class Oracle:
    """Reads the word off an image's colours, pixel by pixel: always right on images painted in them."""

    name: str = "oracle"
    preprocess: Preprocess = field(default_factory=lambda: Preprocess(24))
    tokenizer: WordTokenizer = field(default_factory=WordTokenizer)
    patch_size: int = 1
    readouts: tuple[str, ...] = ("colour",)
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    def encode_image(self, images: Tensor) -> Tensor:
        return F.normalize(self.encode_pooled(images), dim=-1)

    def encode_pooled(self, images: Tensor) -> Tensor:
        return self.encode_dense(images, "colour").mean((1, 2))

    def encode_text(self, ids: Tensor, *, normalize: bool = True) -> Tensor:
        return F.one_hot(ids[:, 0], self.tokenizer.vocab_size).float()

    def encode_dense(self, images: Tensor, readout: str) -> Tensor:
        assert readout in self.readouts
        colours = self.preprocess.normalize(
            torch.tensor([colour_of(i) for i in range(40)], dtype=torch.uint8).T[..., None]
        )[..., 0]  # [3, 40]
        distances = (images[:, :, None] - colours[None, :, :, None, None]).square().sum(1)  # [B, 40, H, W]
        return F.one_hot(distances.argmin(1), self.tokenizer.vocab_size).float()


@dataclass
class Noise(Oracle):
    """Knows the words, sees nothing: its image features are independent draws."""

    name: str = "noise"
    generator: torch.Generator = field(default_factory=lambda: torch.Generator().manual_seed(0))

    def encode_dense(self, images: Tensor, readout: str) -> Tensor:
        batch, _, height, width = images.shape
        return torch.randn(batch, height, width, self.tokenizer.vocab_size, generator=self.generator)


class Patches:
    """Dense features of two readouts that depend on position and content, with a patch of 4."""

    name = "patches"
    patch_size = 4
    readouts = ("linear", "squared")
    device = torch.device("cpu")
    weight = torch.randn(3, 6, generator=torch.Generator().manual_seed(1))

    def __init__(self, size):
        self.preprocess = Preprocess(size, interpolation="bilinear")

    def tokenizer(self, texts):
        return torch.tensor([[len(text), sum(map(ord, text))] for text in texts])

    def encode_text(self, ids, *, normalize=True):
        features = torch.stack([(ids.sum(1) * i).float().sin() * (i + 1) for i in range(6)], dim=1)
        return F.normalize(features, dim=-1) if normalize else features

    def encode_dense(self, images, readout):
        pooled = F.avg_pool2d(images, 4).permute(0, 2, 3, 1) @ self.weight
        return pooled if readout == "linear" else pooled.square()


class Encoded:
    """As much of a two-tower model as decoders ask for: an image tower and, for some, a second encoder."""

    name, device = "clip", torch.device("cpu")

    def __init__(self, tower: ImageTower, size: int, second: Encoded | None = None) -> None:
        self.visual, self.second = tower, second
        self.patch_size, self.preprocess, self.readouts = tower.patch, Preprocess(size), tuple(READOUTS[tower.pool])

    @torch.no_grad()
    def encode_dense(self, images: Tensor, readout: str) -> Tensor:
        return self.visual.dense(images, readout)


@pytest.fixture
def patches() -> type[Patches]:
    return Patches


@pytest.fixture
def oracle() -> Oracle:
    return Oracle()


@pytest.fixture
def noise() -> Noise:
    return Noise()


@pytest.fixture
def flat() -> Callable[..., Image.Image]:
    """An image in the one colour of a word."""

    def make(index: int, size: tuple[int, int] = (24, 24)) -> Image.Image:
        return Image.new("RGB", size, colour_of(index))

    return make


@pytest.fixture
def root(tmp_path: Path, flat: Callable[..., Image.Image]) -> Path:
    """A folder with one small data set of each kind, which the oracle solves."""
    names = ["w3", "w11", "w20", "w5", "w30", "w17"]
    folder = tmp_path / "classification" / "shapes"
    for split in ("train", "test"):
        for i, name in enumerate(names):
            (folder / split / f"{i:02d}").mkdir(parents=True)
            for copy in range(2):
                flat(WORDS.index(name)).save(folder / split / f"{i:02d}" / f"{copy}.png")
    (folder / "classes.txt").write_text("\n".join(names) + "\n")

    folder = tmp_path / "retrieval" / "pairs"
    (folder / "images").mkdir(parents=True)
    for i in range(12):
        flat(i, (20, 30)).save(folder / "images" / f"{i}.png")
    captions = [
        {"image": f"images/{i}.png", "captions": [f"Here is w{i}.", f"w{i} again"][: 1 + i % 2]} for i in range(12)
    ]
    (folder / "captions.json").write_text(json.dumps(captions))

    folder = tmp_path / "segmentation" / "stripes"
    for name in ("images", "labels"):
        (folder / name).mkdir(parents=True)
    (folder / "classes.txt").write_text("background\nw0\nw7\nw21\n")
    for i in range(3):
        label = np.zeros((24, 32), np.uint8)
        label[:, 5:12], label[4:9], label[:, 20 + i :] = 1, 2, 3
        label[0] = 255
        words = np.array([39, 0, 7, 21])[np.where(label == 255, 0, label)]
        Image.fromarray(np.array([colour_of(w) for w in range(40)], np.uint8)[words]).save(
            folder / "images" / f"{i}.png"
        )
        Image.fromarray(label).save(folder / "labels" / f"{i}.png")
    return tmp_path


@pytest.fixture
def real_data() -> Path:
    """The project's folder of real photographs."""
    folder = Path(
        os.environ.get("SILC_DATA") or Path(__file__).resolve().parents[2] / ".." / "shared" / "data"
    ).resolve()
    if not (folder / "classification").is_dir():
        pytest.skip(f"no evaluation data at {folder}; set SILC_DATA")
    return folder


@pytest.fixture
def scored(tmp_path, monkeypatch, capsys):
    """`silc eval` on a tree, with the reader in a run's place; gives the records by task."""

    def score(root, names, *args):
        model = NameReader(NameTokenizer(list(names)))
        loaded = loading.Loaded({"teacher": model}, 7, 8.0, "", "softmax")
        monkeypatch.setattr(checks, "check_model", lambda path: None)
        monkeypatch.setattr(evaluation, "load_any", lambda *_, **__: loaded)
        out = tmp_path / "scores.json"
        (tmp_path / "run").mkdir(exist_ok=True)
        command = ["eval", str(tmp_path / "run"), "--root", str(root), "--out", str(out), "--device", "cpu", *args]
        code = main(command)
        if code:
            raise BadInput(capsys.readouterr().err)
        return {record["task"]: record for record in json.loads(out.read_text())}

    return score
