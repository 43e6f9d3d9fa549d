"""Scenes show what they say, and say nothing else."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from silc.data.scenes import COLOURS, COMBINATIONS, GROUND, HELD_OUT, SEEN, TEXTURES, ScenePairs, render, write_sets


def named(caption: str) -> set[str]:
    return {name for name in COMBINATIONS if re.search(rf"\b{name}\b", caption)}


def opened(path: Path) -> Image.Image:
    with Image.open(path) as image:
        image.load()
    return image


def parts(name: str) -> tuple[str, str]:
    """Colour and texture of a combination's name."""
    first, second = name.split()
    return (second, first) if first == "plain" else (first, second)


def test_the_held_out_combinations_leave_every_colour_and_texture_in_training() -> None:
    assert len(COMBINATIONS) == len(set(COMBINATIONS)) == 32
    assert len(HELD_OUT) == 6
    assert len(SEEN) == 26
    assert set(COMBINATIONS) >= HELD_OUT
    assert not HELD_OUT & {COMBINATIONS[i] for i in SEEN}
    colours, textures = zip(*(parts(COMBINATIONS[i]) for i in SEEN), strict=True)
    assert set(colours) == set(COLOURS)
    assert set(textures) == set(TEXTURES)


def test_captions_name_exactly_what_the_labels_show() -> None:
    places = {"left", "right", "above", "below", "top", "bottom", "under", "over", "beside", "next", "between"}
    shapes = {"circle", "square", "triangle", "rectangle", "shape"}
    sentences, counts = set(), set()
    for index in range(200):
        scene = render((0, 0, index), size=64, combinations=SEEN)
        shown, pixels = np.unique(scene.labels, return_counts=True)
        assert 2 <= len(shown) <= 4
        assert pixels.min() >= 0.1 * 64 * 64
        assert set(shown.tolist()) <= set(SEEN)
        assert len(set(scene.captions)) == len(scene.captions) >= 3
        for caption in scene.captions:
            assert named(caption) == {COMBINATIONS[i] for i in shown}
            assert not (places | shapes) & set(caption.split())
            sentences.add(re.sub("|".join(COMBINATIONS), "X", caption))
        counts.add(len(shown))
    assert counts == {2, 3, 4}
    assert len(sentences) > 15


def test_pixels_show_what_the_labels_say() -> None:
    """Most pixels of a region lie near its colour or, if it is textured, near the ground."""
    for index in range(60):
        scene = render((1, 0, index), size=64, combinations=range(32))
        pixels = scene.pixels.astype(int)
        assert (scene.pixels.shape, scene.pixels.dtype) == ((64, 64, 3), np.uint8)
        assert pixels.shape == (64, 64, 3)
        assert scene.labels.dtype == np.uint8
        assert scene.labels.shape == (64, 64)
        for label in np.unique(scene.labels):
            colour, texture = parts(COMBINATIONS[label])
            region = pixels[scene.labels == label]
            to_ink = np.abs(region - COLOURS[colour]).max(axis=1)
            to_ground = np.abs(region - GROUND).max(axis=1)
            assert np.minimum(to_ink, to_ground).max() <= 14 + 8  # jitter and noise
            share = (to_ink < to_ground).mean()
            assert share == 1 if texture == "plain" else 0.2 < share < 0.8
            assert len(np.unique(region, axis=0)) > 20  # not one exact colour


@pytest.mark.parametrize("name", [name for name in COMBINATIONS if not name.startswith("plain")])
def test_a_texture_shows_in_every_8_pixel_patch(name: str) -> None:
    for index in range(4):
        scene = render((2, 0, index), size=64, combinations=[COMBINATIONS.index(name)], num_regions=(1, 1))
        ink = scene.pixels.astype(int).max(axis=2) > 100
        patches = ink.reshape(8, 8, 8, 8).swapaxes(1, 2).reshape(64, 64)
        share = patches.mean(axis=1)
        assert share.min() > 0.1
        assert share.max() < 0.9


def test_textures_differ_from_one_another() -> None:
    """Stripes are constant along one of four directions, checks are half ink, dots a third."""
    share = {}
    for texture in ("stripes", "dots", "checks"):
        combination = COMBINATIONS.index(f"cyan {texture}")
        scenes = [render((3, 0, i), size=64, combinations=[combination], num_regions=(1, 1)) for i in range(20)]
        inks = [scene.pixels.astype(int).max(axis=2) > 100 for scene in scenes]
        share[texture] = np.mean([ink.mean() for ink in inks])
        constant = [
            max(
                (ink[1:] == ink[:-1]).mean(),
                (ink[:, 1:] == ink[:, :-1]).mean(),
                (ink[1:, 1:] == ink[:-1, :-1]).mean(),
                (ink[1:, :-1] == ink[:-1, 1:]).mean(),
            )
            for ink in inks
        ]
        assert (min(constant) > 0.99) if texture == "stripes" else (max(constant) < 0.95)
    assert abs(share["stripes"] - 0.5) < 0.05
    assert abs(share["checks"] - 0.5) < 0.05
    assert abs(share["dots"] - 0.34) < 0.05


def test_scene_pairs_are_the_same_each_time() -> None:
    pairs, again, other = ScenePairs(50, 32, 0), ScenePairs(50, 32, 0), ScenePairs(50, 32, 1)
    assert len(pairs) == pairs.blocks.sum() == 50
    assert pairs.fingerprint == again.fingerprint != other.fingerprint
    assert ScenePairs(51, 32, 0).fingerprint != pairs.fingerprint
    for index in (49, 0, 7):
        a, b, c = pairs[index], again[index], other[index]
        assert a.key == b.key
        assert a.captions == b.captions != c.captions
        assert np.array_equal(a.pixels, b.pixels)
    assert len({pairs[index].captions for index in range(50)}) == 50
    for index in range(50):
        assert not named(pairs[index].captions[0]) & HELD_OUT
    with pytest.raises(IndexError):
        pairs[50]


def test_captions_of_scene_pairs_are_those_of_the_scenes() -> None:
    pairs = ScenePairs(5, 32, 0)
    assert list(pairs.captions(1000)) == [caption for index in range(5) for caption in pairs[index].captions]
    assert list(pairs.captions(3)) == list(pairs[0].captions[:3])


def test_evaluation_sets(tmp_path: Path) -> None:
    write_sets(tmp_path, size=32, seed=0, num_retrieval=60, num_segmentation=5, per_class=2)
    training = {ScenePairs(60, 32, 0)[index].captions for index in range(60)}

    retrieval = json.loads((tmp_path / "retrieval/scenes/captions.json").read_text())
    assert len({frozenset(named(entry["captions"][0])) for entry in retrieval}) == len(retrieval) == 60
    for entry in retrieval:
        assert opened(tmp_path / "retrieval/scenes" / entry["image"]).size == (32, 32)
        assert not named(entry["captions"][0]) & HELD_OUT
        assert tuple(entry["captions"]) not in training

    folder = tmp_path / "segmentation/scenes"
    classes = (folder / "classes.txt").read_text().splitlines()
    assert classes == [COMBINATIONS[i] for i in SEEN]
    assert [entry["id"] for entry in json.loads((folder / "meta.json").read_text())] == [f"{i:05d}" for i in range(5)]
    for i in range(5):
        image, labels = opened(folder / f"images/{i:05d}.png"), opened(folder / f"labels/{i:05d}.png")
        assert labels.mode == "L"
        assert labels.size == image.size
        pixels, classes_of = np.asarray(image, dtype=int), np.asarray(labels)
        assert classes_of.max() < 26
        for label in np.unique(classes_of):
            ink = COLOURS[parts(classes[label])[0]]
            near = np.minimum(np.abs(pixels - ink).max(axis=2), np.abs(pixels - GROUND).max(axis=2))
            assert near[classes_of == label].max() <= 22

    for name, shown, listed in (
        ("scenes_seen", [COMBINATIONS[i] for i in SEEN], [COMBINATIONS[i] for i in SEEN]),
        ("scenes_heldout", sorted(HELD_OUT), list(COMBINATIONS)),
    ):
        folder = tmp_path / "classification" / name
        assert (folder / "classes.txt").read_text().splitlines() == listed
        folders = sorted((folder / "test").iterdir())
        assert len(folders) == len(listed)
        for class_name, class_folder in zip(listed, folders, strict=True):
            images = sorted(class_folder.glob("*.png"))
            assert len(images) == (2 if class_name in shown else 0)
            for path in images:
                to_ink = np.abs(np.asarray(opened(path), dtype=int) - COLOURS[parts(class_name)[0]]).max(axis=2)
                assert (to_ink <= 22).mean() > 0.2
