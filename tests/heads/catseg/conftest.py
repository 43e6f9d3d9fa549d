"""A miniature of COCO-Stuff, and what makes CAT-Seg small."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import silc

SMALL = {
    "crop": 32,
    "aggregator.width": 16,
    "aggregator.layers": 1,
    "aggregator.heads": 2,
    "aggregator.guidance": 8,
    "aggregator.decoder": (16, 16),
    "aggregator.decoder_guidance": (8, 8),
    "aggregator.decoder_projected": (4, 4),
    "data.workers": 0,
    "train.duration": "4 steps",
    "train.batch_size": 2,
    "train.precision": "float32",
    "train.device": "cpu",
    "train.save_every": "2 steps",
}


def flags(**more: object) -> list[str]:
    """Of the command line."""
    said = []
    for name, value in (SMALL | more).items():
        if value is False:
            section, _, leaf = name.rpartition(".")
            said.append(f"--{section}.no-{leaf}")
            continue
        said += [f"--{name.replace('_', '-')}", *(map(str, value) if isinstance(value, tuple) else [str(value)])]
    return said


@pytest.fixture(scope="session")
def trained(finished: Callable[..., Path], coco_stuff: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of four steps; look, do not write."""
    out = tmp_path_factory.mktemp("catseg") / "run"
    return silc.train("catseg", out=out, init=str(finished("silc_c")), **(SMALL | {"data.train": str(coco_stuff)}))


@pytest.fixture(scope="session")
def coco_stuff(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """COCO-Stuff as its authors lay it out: six training images, two to score, stuff-thing ids, one number ignored."""
    root = tmp_path_factory.mktemp("data") / "coco_stuff164k"
    for split, numbers in (("train2017", range(6)), ("val2017", range(6, 8))):
        for part in ("images", "annotations"):
            (root / part / split).mkdir(parents=True)
        for number in numbers:
            draws = np.random.default_rng(number)
            labels = np.repeat(draws.choice([0, 16, 120, 181, 255], 4), 10)[None].repeat(48, axis=0).astype(np.uint8)
            pixels = np.stack([labels, labels * 3, 255 - labels], axis=-1)
            Image.fromarray(pixels).save(root / "images" / split / f"{number:012d}.jpg", quality=95)
            Image.fromarray(labels).save(root / "annotations" / split / f"{number:012d}.png")
    return root


@pytest.fixture(scope="session")
def coloured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes told by their colours, with a training part; its root is what `--root` takes."""
    root = tmp_path_factory.mktemp("coloured")
    folder, colours = root / "segmentation" / "coloured", np.array([[220, 30, 30], [30, 200, 30], [30, 30, 220]])
    for part, numbers in ((folder / "train", range(6)), (folder, range(6, 9))):
        for kind in ("images", "labels"):
            (part / kind).mkdir(parents=True)
        for number in numbers:
            draws = np.random.default_rng(number)
            labels = np.repeat(draws.permutation(3), 16)[None].repeat(40, axis=0).astype(np.uint8)
            pixels = colours[labels] + draws.integers(-20, 20, (*labels.shape, 1))
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(part / "images" / f"{number}.png")
            Image.fromarray(labels).save(part / "labels" / f"{number}.png")
    (folder / "classes.txt").write_text("red\ngreen\nblue\n")
    return folder
