"""Generated objects are what their labels, boxes, captions and answers say, by a second and slow drawing."""

from __future__ import annotations

import itertools
import json
import math
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from silc.data import object_sets
from silc.data.config import DataConfig, ObjectsConfig
from silc.data.objects import (
    BADGE,
    BADGES,
    BODY,
    GROUNDS,
    HEAD,
    HEADS,
    HOME,
    NAMES,
    PATTERNS,
    UNRELATED,
    UNSEEN,
    Layout,
    ObjectPairs,
    captions,
    content,
    draw,
    lay_out,
)
from silc.data.sources import open_pairs
from silc.errors import BadInput

CONFIG = ObjectsConfig()
SEEDS = [(3, 0, index) for index in range(40)]
SLOW = {  # a point of a tile of side p, and whether it is ink
    "rows": lambda v, u, p: v < 0.3 * p,
    "columns": lambda v, u, p: u < 0.3 * p,
    "grid": lambda v, u, p: v < 0.2 * p or u < 0.2 * p,
    "dots": lambda v, u, p: math.dist((v, u), (p / 2, p / 2)) < 0.33 * p,
    "rings": lambda v, u, p: abs(math.dist((v, u), (p / 2, p / 2)) - 0.35 * p) < 0.13 * p,
    "lattice": lambda v, u, p: (v + u) % p < 0.2 * p or (v - u) % p < 0.2 * p,
}


def slowly(layout: Layout, size: int) -> tuple[list[list[int]], list[list[int]]]:
    """Object and part of each pixel: for every pixel, the last disc that holds it."""
    things, parts = [], []
    for y in range(size):
        row = []
        for x in range(size):
            on_top = (-1, -1)
            for number, thing in enumerate(layout.things):
                for part, disc in thing.discs:
                    if (y - disc.y) ** 2 + (x - disc.x) ** 2 <= disc.radius**2:
                        on_top = (number, part)
            row.append(on_top)
        things.append([thing for thing, _ in row])
        parts.append([part for _, part in row])
    return things, parts


@pytest.mark.parametrize("size", [64, 45])
def test_every_pixel_is_of_the_object_and_part_that_a_slow_drawing_finds(size: int) -> None:
    config = ObjectsConfig(size=size)
    for seed in SEEDS[:12]:
        layout = lay_out(seed, config)
        drawing = draw(layout, seed, config)
        things, parts = slowly(layout, size)
        assert drawing.thing.tolist() == things
        assert drawing.part.tolist() == parts
        assert (drawing.pixels.shape, drawing.pixels.dtype) == ((size, size, 3), np.uint8)


def test_parts_look_as_their_names_say() -> None:
    """Heads and badges have their colours, bodies are grey in two tones where the pattern has ink and where not."""
    patterns = [(pattern, light) for pattern in PATTERNS for light in (True, False)]
    for seed in SEEDS:
        layout = lay_out(seed, CONFIG)
        drawing = draw(layout, seed, CONFIG)
        for number, thing in enumerate(layout.things):
            own = drawing.thing == number
            for part, colour in ((HEAD, HEADS[thing.name % 4]), (BADGE, BADGES[thing.name])):
                seen = drawing.pixels[own & (drawing.part == part)].astype(int)
                assert np.abs(seen - np.array(colour)).max() <= 8 + 8  # jitter and noise
            body = own & (drawing.part == BODY)
            pattern, light = patterns[thing.name]
            period = (7.0, 7.5, 8.0, 8.5, 9.0)[thing.tile[0]]
            down, right = thing.tile[1:]
            ink = np.array(
                [
                    [SLOW[pattern]((y + down) % period, (x + right) % period, period) for x in range(64)]
                    for y in range(64)
                ]
            )
            on, off = drawing.pixels[body & ink].astype(float), drawing.pixels[body & ~ink].astype(float)
            assert on.std(axis=0).max() < 8
            assert off.std(axis=0).max() < 8
            difference = (on.mean() - off.mean()) * (1 if light else -1)
            assert 80 - 20 < difference < 80 + 20


def test_no_mean_grey_and_no_mirror_tells_a_name() -> None:
    greys: dict[int, list[float]] = {name: [] for name in range(len(NAMES))}
    for index in range(600):
        layout = lay_out((9, 0, index), CONFIG)
        drawing = draw(layout, (9, 0, index), CONFIG)
        for number, thing in enumerate(layout.things):
            greys[thing.name].append(drawing.pixels[(drawing.thing == number) & (drawing.part == BODY)].mean())
    means = [np.mean(values) for values in greys.values()]
    assert max(means) - min(means) < 0.5 * np.mean([np.std(values) for values in greys.values()])


def test_training_never_shows_the_pairs_that_are_kept_for_the_end() -> None:
    assert len(UNSEEN) == 24
    assert all(Counter(name for name, _ in UNSEEN)[name] == 2 for name in range(12))
    assert all(Counter(ground for _, ground in UNSEEN)[ground] == 4 for ground in range(6))
    assert not UNSEEN & set(enumerate(HOME))
    seen = [lay_out((0, 0, index), CONFIG) for index in range(3000)]
    shown = Counter((thing.name, layout.ground) for layout in seen for thing in layout.things)
    assert set(shown) == set(itertools.product(range(12), range(6))) - UNSEEN
    home = sum(number for (name, ground), number in shown.items() if HOME[name] == ground)
    assert home / shown.total() == pytest.approx(CONFIG.at_home, abs=0.02)
    assert Counter(len(layout.things) for layout in seen).keys() == {1, 2, 3}
    kept = [lay_out((0, 1, index), CONFIG, unseen=True) for index in range(500)]
    assert {(thing.name, layout.ground) for layout in kept for thing in layout.things} == UNSEEN


def test_clean_captions_tell_names_numbers_and_ground() -> None:
    words = {"a": 1, "two": 2, "three": 3}
    for seed in SEEDS:
        layout = lay_out(seed, CONFIG)
        said = captions(layout, seed, noise=0)
        assert len(set(said)) == 4
        for caption in said:
            found: Counter[int] = Counter()
            text = caption.replace(",", "").replace("a picture of ", "")
            tokens = text.split()
            for before, word in itertools.pairwise(tokens):
                for name, singular in enumerate(NAMES):
                    if word in (singular, f"{singular}s"):
                        assert (words[before] > 1) == word.endswith("s")
                        found[name] += words[before]
            assert found == Counter(thing.name for thing in layout.things)
            assert [token for token in tokens if token in GROUNDS] == [GROUNDS[layout.ground]]


@pytest.mark.parametrize("noise", [0.0, 0.3, 1.0])
def test_as_many_captions_are_wrong_as_are_asked_for(noise: float) -> None:
    wrong = total = unrelated = 0
    for index in range(400):
        layout = lay_out((5, 0, index), CONFIG)
        clean, said = (captions(layout, (5, 0, index), level) for level in (0, noise))
        names = Counter(NAMES[thing.name] for thing in layout.things)
        for caption in said:
            told = Counter(
                {name: caption.count(f" {name}") + caption.startswith(name) for name in NAMES if name in caption}
            )
            wrong += set(told) != set(names) or GROUNDS[layout.ground] not in caption
            unrelated += caption in UNRELATED
            total += 1
        assert clean == said or noise
    # One of twelve wrong words is the right one, by chance.
    assert wrong / total == pytest.approx(noise * (1 - 1 / 36), abs=0.06)
    assert unrelated / total == pytest.approx(noise / 3, abs=0.06)


def test_settings_change_what_they_say() -> None:
    def shares(config: ObjectsConfig) -> list[float]:
        parts = np.concatenate([draw(lay_out(seed, config), seed, config).part.ravel() for seed in SEEDS])
        return [float((parts == part).sum() / (parts >= 0).sum()) for part in (BODY, HEAD, BADGE)]

    assert shares(CONFIG)[BADGE] == pytest.approx(1 / 7, abs=0.02)
    assert shares(ObjectsConfig(badge=0))[BADGE] == 0
    assert shares(ObjectsConfig(badge=0.3))[BADGE] == pytest.approx(0.3, abs=0.04)
    assert {len(lay_out(seed, ObjectsConfig(most=1)).things) for seed in SEEDS} == {1}
    flat = ObjectsConfig(contrast=0)
    layout = lay_out(SEEDS[0], flat)
    drawing = draw(layout, SEEDS[0], flat)
    assert drawing.pixels[(drawing.thing == 0) & (drawing.part == BODY)].std(axis=0).max() < 8
    alone = ObjectsConfig(at_home=1)
    assert all(
        HOME[thing.name] == one.ground for one in (lay_out(seed, alone) for seed in SEEDS) for thing in one.things
    )


def test_pairs_are_the_same_each_time_and_others_for_another_seed() -> None:
    pairs = ObjectPairs(ObjectsConfig(num=50), seed=1)
    assert len(pairs) == 50
    assert list(pairs.captions(6)) == [*pairs[0].captions, *pairs[1].captions[:2]]
    assert (pairs[7].pixels == ObjectPairs(ObjectsConfig(num=50), seed=1)[7].pixels).all()
    other = ObjectPairs(ObjectsConfig(num=50), seed=2)
    assert (pairs[7].pixels != other[7].pixels).any()
    fingerprints = {ObjectPairs(ObjectsConfig(num=50, contrast=c), s).fingerprint for c in (0.5, 1) for s in (1, 2)}
    assert len(fingerprints) == 4
    with pytest.raises(IndexError):
        pairs[50]


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("objects")
    object_sets.write_sets(root, CONFIG, seed=4, num=12, num_train=15, num_retrieval=20)
    return root


def read(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.array(image)


def test_label_maps_agree_with_a_slow_drawing(sets: Path) -> None:
    names = (sets / "segmentation/objects/classes.txt").read_text().split()
    assert names == [*NAMES, *GROUNDS]
    for number in range(6):
        seed = (4, object_sets.SEGMENTATION, object_sets.TESTED, number)
        layout = lay_out(seed, CONFIG)
        things, parts = (np.array(found) for found in slowly(layout, 64))
        owner = np.array([*(thing.name for thing in layout.things), -1])[things]
        expected = {
            "objects": np.where(owner < 0, 12 + layout.ground, owner),
            "objects_whole": np.where(owner < 0, 255, owner),
            "objects_bodies": np.where((owner < 0) | (parts != BODY), 255, owner),
            "objects_grounds": np.where(owner < 0, layout.ground, 255),
        }
        for name, truth in expected.items():
            assert (read(sets / f"segmentation/{name}/labels/{number:05d}.png") == truth).all(), name
            assert (
                read(sets / f"segmentation/{name}/images/{number:05d}.png") == draw(layout, seed, CONFIG).pixels
            ).all()


def test_boxes_are_those_of_the_pixels_that_can_be_seen(sets: Path) -> None:
    for name, part, which in (("objects", "train", 0), ("objects", "val", 1), ("objects_unseen", "val", 2)):
        found = json.loads((sets / f"detection/{name}/annotations/instances_{part}.json").read_text())
        assert [one["name"] for one in found["categories"]] == list(NAMES)
        for image in found["images"][:4]:
            layout = lay_out((4, object_sets.DETECTION, which, image["id"] - 1), CONFIG, unseen=which == 2)
            things, _ = slowly(layout, 64)
            expected = []
            for number, thing in enumerate(layout.things):
                seen = [(y, x) for y in range(64) for x in range(64) if things[y][x] == number]
                top, left = min(y for y, _ in seen), min(x for _, x in seen)
                box = [left, top, max(x for _, x in seen) - left + 1, max(y for y, _ in seen) - top + 1]
                expected.append((thing.name + 1, box, len(seen)))
            own = [one for one in found["annotations"] if one["image_id"] == image["id"]]
            assert [(one["category_id"], one["bbox"], one["area"]) for one in own] == expected
            assert (sets / f"detection/{name}/{part}" / image["file_name"]).is_file()
        assert len({one["id"] for one in found["annotations"]}) == len(found["annotations"])


def test_answers_are_right(sets: Path) -> None:
    kinds = Counter()
    for part, which in (("train", 0), ("test", 1), ("unseen", 2)):
        for entry in json.loads((sets / f"vqa/objects/{part}/questions.json").read_text()):
            seed = (4, object_sets.QUESTIONS, which, int(Path(entry["image"]).stem))
            layout = lay_out(seed, CONFIG, unseen=which == 2)
            there = Counter(NAMES[thing.name] for thing in layout.things)
            asked = entry["question"].rstrip("?").split()
            match asked:
                case ["how", "many", plural, *_]:
                    answer = str(there[plural.removesuffix("s")])
                case ["is", "there", "a", name]:
                    answer = "yes" if there[name] else "no"
                case ["what", "is", "the", "ground"]:
                    answer = GROUNDS[layout.ground]
                case ["what", "is", "on", "the", ground]:
                    assert ground == GROUNDS[layout.ground]
                    (answer,) = there
                case ["is", "the", one, "left", "of", "the", other]:
                    x = {NAMES[thing.name]: thing.discs[0][1].x for thing in layout.things}
                    assert there[one] == there[other] == 1
                    answer = "yes" if x[one] < x[other] else "no"
                case _:
                    pytest.fail(entry["question"])
            assert entry["answer"] == answer
            assert entry["answers"] == [answer]
            kinds[entry["answer_type"]] += 1
    assert kinds.keys() == {"number", "yes/no", "ground", "name"}


def test_retrieval_has_one_right_answer_and_classification_one_object(sets: Path) -> None:
    entries = json.loads((sets / "retrieval/objects/captions.json").read_text())
    assert len(entries) == 20
    said = [caption for entry in entries for caption in entry["captions"]]
    assert len(set(said)) == len(said)
    learnt = json.loads((sets / "retrieval/objects/train/captions.json").read_text())
    assert len(learnt) == 15
    seed = (4, object_sets.RETRIEVAL, object_sets.LEARNT, 7)
    layout = lay_out(seed, CONFIG)
    assert learnt[7]["captions"] == list(captions(layout, seed, noise=0))
    assert (read(sets / "retrieval/objects/train" / learnt[7]["image"]) == draw(layout, seed, CONFIG).pixels).all()
    folders = sorted((sets / "classification/objects/test").iterdir())
    assert [folder.name.partition("-")[2] for folder in folders] == list(NAMES)
    assert sum(1 for folder in folders for _ in folder.iterdir()) == 12
    unseen = lay_out((4, object_sets.CLASSIFICATION, object_sets.UNSEEN, 0), CONFIG, unseen=True, most=1)
    (thing,) = unseen.things
    file = sets / f"classification/objects_unseen/test/{thing.name:02d}-{NAMES[thing.name]}/00000.png"
    assert file.is_file()
    assert content(unseen) == (unseen.ground, ((thing.name, 1),))


def test_a_run_reads_objects_where_they_are_its_source() -> None:
    config = DataConfig(source="objects", objects=ObjectsConfig(num=30, size=32))
    pairs = open_pairs(config, seed=5)
    assert (len(pairs), pairs[0].pixels.shape) == (30, (32, 32, 3))
    assert config.generated == config.objects


def test_a_world_has_only_so_many_different_images(tmp_path: Path) -> None:
    alone = replace(CONFIG, most=1)
    most = object_sets.most_retrieval(alone)
    with pytest.raises(BadInput, match=f"at most {most}$"):
        object_sets.write_sets(tmp_path / "refused", alone, seed=0, num=1, num_train=1, num_retrieval=most + 1)
    object_sets.write_sets(tmp_path / "sets", alone, seed=0, num=1, num_train=1, num_retrieval=most)
