"""Squares of three colours, with captions in Karpathy's form and questions in a folder of one's own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

COLOURS = {"red": (220, 30, 30), "green": (30, 200, 30), "blue": (40, 40, 220)}
SMALL = {
    "depth": 1,
    "width": 32,
    "heads": 2,
    "length": 64,
    "data.workers": 0,
    "data.vocab_size": 300,
    "train.duration": "4 steps",
    "train.batch_size": 4,
    "train.precision": "float32",
    "train.device": "cpu",
    "train.save_every": "2 steps",
    "train.optim.warmup": "0 steps",
}


def flags(**more: object) -> list[str]:
    """Of the command line."""
    return [word for name, value in (SMALL | more).items() for word in (f"--{name.replace('_', '-')}", str(value))]


def painted(file: Path, number: int) -> str:
    """Write an image of one colour; its name."""
    name = list(COLOURS)[number % 3]
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (20, 24 + number), COLOURS[name]).save(file)
    return name


@pytest.fixture(scope="session")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As `write_sets` makes it."""
    return write_sets(tmp_path_factory.mktemp("data"))


def write_sets(root: Path) -> Path:
    """coco/ with eight captioned images to learn from and four to score on; vqa/squares/ with as many questions."""
    entries = []
    for number in range(12):
        name = painted(root / "coco" / "val2014" / f"{number}.png", number)
        told = [f"a {name} square", f"{name} all over"]
        split = ("train", "restval")[number % 2] if number < 8 else "test"
        sentences = [{"raw": text} for text in told]
        entries.append({"filepath": "val2014", "filename": f"{number}.png", "split": split, "sentences": sentences})
    (root / "coco" / "dataset_coco.json").write_text(json.dumps({"images": entries}))
    for part, numbers in (("train", range(8)), ("test", range(8, 12))):
        asked = []
        for number in numbers:
            name = painted(root / "vqa" / "squares" / part / "images" / f"{number}.png", number)
            entry = {"image": f"images/{number}.png", "question": "what colour is it?", "answer": name}
            asked.append({**entry, "answer_type": "colour"})
        (root / "vqa" / "squares" / part / "questions.json").write_text(json.dumps(asked))
    return root
