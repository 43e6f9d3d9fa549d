"""A miniature of COCO with boxes, and what makes a detection run small."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

NAMES = ("red square", "green square", "blue square")
COLOURS = ((220, 30, 30), (30, 200, 30), (40, 40, 220))
SMALL = {
    "size": 32,
    "data.workers": 0,
    "data.templates": "plain",
    "train.duration": "4 steps",
    "train.batch_size": 2,
    "train.precision": "float32",
    "train.device": "cpu",
    "train.save_every": "2 steps",
    "train.optim.warmup": "0 steps",
}


def flags(**more: object) -> list[str]:
    """Of the command line."""
    said = []
    for name, value in (SMALL | more).items():
        words = map(str, value) if isinstance(value, tuple) else [str(value)]
        said += [f"--{name.replace('_', '-')}", *words]
    return said


def write_set(root: Path, split: str, numbers: range) -> Path:
    """One to three squares an image, on grey, in COCO's form; the file."""
    (root / split).mkdir(parents=True, exist_ok=True)
    (root / "annotations").mkdir(exist_ok=True)
    images, annotations = [], []
    for number in numbers:
        draws = np.random.default_rng(number)
        width, height = ((48, 36), (36, 48))[number % 2]
        picture = Image.new("RGB", (width, height), (150, 150, 150))
        for place in range(1 + number % 3):
            label, side = (number + place) % 3, int(draws.integers(8, 12))
            x, y = 12 * place, int(draws.integers(0, height - side))
            picture.paste(COLOURS[label], (x, y, x + side, y + side))
            box = {"id": len(annotations) + 1, "image_id": number, "category_id": label + 1, "iscrowd": 0}
            annotations.append({**box, "bbox": [x, y, side, side], "area": side * side})
        picture.save(root / split / f"{number:012d}.png")
        images.append({"id": number, "file_name": f"{number:012d}.png", "width": width, "height": height})
    values = {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": label + 1, "name": name} for label, name in enumerate(NAMES)],
    }
    file = root / "annotations" / f"instances_{split}.json"
    file.write_text(json.dumps(values))
    return file


@pytest.fixture(scope="session")
def coco(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """COCO as its authors lay it out: six training images, three to score."""
    root = tmp_path_factory.mktemp("data") / "coco"
    write_set(root, "train2017", range(1, 7))
    write_set(root, "val2017", range(7, 10))
    return root
