"""What a probe can tell: features that were learnt from features of random weights, and from pixels.

Scores of three seeds, and where nothing is told apart, are in docs/results.md.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from silc import recipes
from silc.cli import main
from silc.data import scenes
from silc.data.config import ObjectsConfig
from silc.data.object_sets import NAMES, World, labels
from silc.eval.layouts.classes import read_classification
from silc.eval.metrics import confusion, neighbour_votes, segmentation_scores
from silc.pretraining import run

SIDE, PATCH = 48, 8
"""Of `clip-tiny`."""


def towers(source: Literal["scenes", "objects"], out: Path) -> tuple[Path, Path]:
    """`clip-tiny` after 25k generated pairs, two CPU minutes, and after none."""
    config = recipes.get("clip-tiny")
    config = replace(config, data=replace(config.data, source=source))
    train = replace(config.train, precision="float32", save_every="never")
    learnt = run.train(replace(config, out=str(out / "learnt"), train=train))
    still = replace(train, duration="1 steps", batch_size=8, optim=replace(train.optim, lr=1e-12))
    return learnt, run.train(replace(config, out=str(out / "random"), train=still))


def probed(model: Path, root: Path, *flags: str) -> dict[str, float]:
    """Headline scores of a model's probes, by task."""
    assert main(["probe", str(model), "--root", str(root), "--out", f"{model}-probe", *flags]) == 0
    records = json.loads(Path(f"{model}-probe/scores.json").read_text())
    return {record["task"]: record["metrics"].get("miou", record["metrics"].get("acc1")) for record in records}


def small(image: Image.Image) -> np.ndarray:
    return np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BICUBIC)) / 255


def regression(train: np.ndarray, truth: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """scikit-learn's on standardised rows, its penalty that of a probe with l2 of 0.01."""
    scaler = StandardScaler().fit(train)
    peer = LogisticRegression(C=1 / (1e-2 * len(train)), max_iter=200).fit(scaler.transform(train), truth)
    return lambda rows: peer.predict(scaler.transform(rows))


def pooled_pixels(folder: Path, num_classes: int) -> tuple[float, float]:
    """Accuracy of k-NN and of logistic regression on the pixels of a set."""
    (train, truth), (test, asked) = (
        (np.stack([small(image).ravel() for image in data.images]), np.array(data.labels))
        for data in (read_classification(folder, "train"), read_classification(folder))
    )
    votes = neighbour_votes(torch.from_numpy(train), torch.from_numpy(truth), torch.from_numpy(test), num_classes)
    linear = regression(train, truth)(test)
    return float((votes.argmax(dim=1).numpy() == asked).mean()), float((linear == asked).mean())


def write_largest(root: Path) -> Path:
    """Scenes of two to four regions, filed under the combination that fills most of each."""
    folder, names = root / "classification/largest", [scenes.COMBINATIONS[one] for one in scenes.SEEN]
    for split, seed, count in (("train", 5, 600), ("test", 6, 300)):
        for name in names:
            (folder / split / name).mkdir(parents=True)
        for number in range(count):
            scene = scenes.render((seed, number), size=64, combinations=scenes.SEEN)
            combinations, pixels = np.unique(scene.labels, return_counts=True)
            largest = scenes.COMBINATIONS[combinations[pixels.argmax()]]
            Image.fromarray(scene.pixels).save(folder / split / largest / f"{number}.png")
    (folder / "classes.txt").write_text("\n".join(names))
    return folder


@pytest.mark.slow
def test_scenes_linear_classification(tmp_path: Path) -> None:
    """Which combination fills most of a scene, by a linear layer; k-NN weighs all that is seen."""
    folder = write_largest(tmp_path)
    models = towers("scenes", tmp_path)
    learnt, random = (
        probed(model, tmp_path, "--tasks", "*-linear", "--train.duration", "500 steps") for model in models
    )
    task, (_, pixels) = "linear_probe_classification", pooled_pixels(folder, len(scenes.SEEN))
    assert learnt[task] > max(random[task], pixels) + 0.05


def write_objects(root: Path) -> Path:
    """Images of one object under its name, and label maps of bodies: grey, with a texture that the name alone has."""
    world, folder = World(ObjectsConfig(), 0), root / "classification/objects"
    for split, part, count in (("train", 0, 600), ("test", 1, 300)):
        for name in NAMES:
            (folder / split / name).mkdir(parents=True)
        for number, shown in enumerate(islice(world.images(2, part, 1), count)):
            name = NAMES[shown.layout.things[0].name]
            Image.fromarray(shown.drawing.pixels).save(folder / split / name / f"{number}.png")
    (folder / "classes.txt").write_text("\n".join(NAMES))
    bodies = root / "segmentation/bodies"
    for split, part, count in (("train", 0, 240), ("", 1, 100)):
        for kind in ("images", "labels"):
            (bodies / split / kind).mkdir(parents=True)
        for number, shown in enumerate(islice(world.images(1, part), count)):
            Image.fromarray(shown.drawing.pixels).save(bodies / split / f"images/{number}.png")
            map_ = labels(shown, things=True, ground=False, bodies=True)
            Image.fromarray(map_).save(bodies / split / f"labels/{number}.png")
    (bodies / "classes.txt").write_text("\n".join(NAMES))
    return folder


def patches_of_pixels(root: Path) -> float:
    """mIoU on bodies of logistic regression on the pixels of each patch."""

    def read(split: Path) -> tuple[np.ndarray, np.ndarray]:
        files = sorted((split / "images").iterdir())
        truth = np.stack([np.asarray(Image.open(split / "labels" / file.name)) for file in files]).astype(np.int64)
        pixels = np.stack([small(Image.open(file)) for file in files])
        shape = (len(files), SIDE // PATCH, PATCH, SIDE // PATCH, PATCH, 3)
        return pixels.reshape(shape).swapaxes(2, 3).reshape(-1, PATCH * PATCH * 3), truth

    def at(length: int, places: int) -> Sequence[int]:
        return [int((place + 0.5) * length / places) for place in range(places)]

    (train, truth), (test, asked) = read(root / "segmentation/bodies/train"), read(root / "segmentation/bodies")
    count, size = SIDE // PATCH, truth.shape[1]
    centres = truth[:, at(size, count)][:, :, at(size, count)].ravel()
    found = regression(train[centres < 12], centres[centres < 12])(test).reshape(-1, count, count)
    whole = found[:, at(count, size)][:, :, at(count, size)]
    return segmentation_scores(confusion(torch.from_numpy(asked), torch.from_numpy(whole), len(NAMES)))["miou"]


@pytest.mark.slow
def test_objects_by_every_probe(tmp_path: Path) -> None:
    """Where no colour of a patch tells its class, k-NN, a linear layer and one on patches all tell what was learnt."""
    folder = write_objects(tmp_path)
    flags = ("--train.duration", "300 steps", "--l2", "1e-1", "1e-2", "1e-3")
    learnt, random = (probed(model, tmp_path, *flags) for model in towers("objects", tmp_path))
    knn, linear = pooled_pixels(folder, len(NAMES))
    pixels = {
        "knn_classification": knn,
        "linear_probe_classification": linear,
        "linear_probe_segmentation": patches_of_pixels(tmp_path),
    }
    assert learnt.keys() == pixels.keys()
    for task in pixels:
        assert learnt[task] > max(random[task], pixels[task]) + 0.03, task
