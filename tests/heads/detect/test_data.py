"""What training sees: pictures whose boxes lie where the objects are, and names that are there or surely are not."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from silc.data.loader import Loader, LoaderPlan
from silc.data.streams import stream
from silc.distributed import World
from silc.errors import BadInput
from silc.eval.datasets import Box, DetectionSet
from silc.eval.layouts.boxes import read_coco, read_training
from silc.heads.detect.augment import Part, Picture, compose, drawn_window, inside, keeps, merged
from silc.heads.detect.config import BoxDataConfig
from silc.heads.detect.data import (
    BoxedImages,
    Pictures,
    forbidden_names,
    known_of,
    negatives_of,
    training_set,
    without,
)
from silc.heads.detect.model import known_of_patches
from tests.eval.conftest import WordTokenizer
from tests.heads.detect.conftest import COLOURS, write_set

PLAIN = BoxDataConfig(workers=0, templates="plain", mosaics=(1.0,), crops=1.0, flip=False)


@pytest.fixture(scope="module")
def data(coco: Path) -> DetectionSet:
    return read_coco("coco", coco / "annotations" / "instances_train2017.json")[0]


def pictures(data: DetectionSet, config: BoxDataConfig, size: int = 96, num: int = 12) -> list[Picture]:
    """Pictures of the set's images, turn by turn."""
    source = BoxedImages(data)

    def one(number: int) -> Picture:
        draws = stream("boxes", 0, 0, number)
        other = Pictures(source, config, size, WordTokenizer())._another
        return compose(source[number % len(source)], other, draws, config, size, "bilinear")

    return [one(number) for number in range(num)]


def seen(picture: Picture, size: int = 96) -> list[tuple[int, torch.Tensor]]:
    """The colour in the middle of each box, as a class, and the mean of what the box holds."""
    found = []
    for x, y, w, h in picture.boxes:
        left, top, right, bottom = (round(size * v) for v in (x - w / 2, y - h / 2, x + w / 2, y + h / 2))
        pixels = picture.pixels[:, top:bottom, left:right].double().flatten(1)
        distances = (pixels.mean(1) - torch.tensor(COLOURS).double()).norm(dim=1)
        found.append((int(distances.argmin()), distances.min()))
    return found


@pytest.mark.parametrize(
    "config",
    [
        PLAIN,
        replace(PLAIN, flip=True),
        replace(PLAIN, crops=0.3, flip=True),
        replace(PLAIN, mosaics=(0.0, 1.0), crops=0.3, flip=True),
        replace(PLAIN, mosaics=(0.4, 0.3, 0.3), flip=True),
    ],
    ids=["whole", "flipped", "cropped", "four", "mixed"],
)
def test_boxes_lie_where_the_colours_are(data: DetectionSet, config: BoxDataConfig) -> None:
    """Whatever is drawn: in each box is the colour of its name, and as many pixels have it as the boxes hold."""
    num = 0
    for picture in pictures(data, config):
        for (colour, distance), labels in zip(seen(picture), picture.labels, strict=True):
            assert [colour] == list(labels)
            assert distance < 40
            num += 1
        pixels = picture.pixels.permute(1, 2, 0).double()
        coloured = (pixels.amax(2) - pixels.amin(2) > 120).double().mean()
        assert coloured == pytest.approx(sum(w * h for _, _, w, h in picture.boxes), abs=0.02)
    assert num > 12


def test_a_picture_is_padded_at_the_right_and_below(data: DetectionSet) -> None:
    wide, tall = pictures(data, PLAIN, num=2)[::-1]
    assert {tuple(one) for one in (wide.pixels.shape, tall.pixels.shape)} == {(3, 96, 96)}
    sizes = [data.sizes[one.parts[0].image or 0] for one in (wide, tall)]
    for one, (width, height) in zip((wide, tall), sizes, strict=True):
        right, below = round(96 * width / max(width, height)), round(96 * height / max(width, height))
        assert (one.pixels[:, below:] == 128).all()
        assert (one.pixels[:, :, right:] == 128).all()
        assert (one.pixels[:, :below, :right] == 128).float().mean() < 0.1


def test_mosaics_have_the_share_that_is_asked(data: DetectionSet) -> None:
    counts = Counter(len(one.parts) for one in pictures(data, replace(PLAIN, mosaics=(0.4, 0.3, 0.3)), 24, 300))
    assert set(counts) == {1, 4, 9}
    assert counts[1] / 300 == pytest.approx(0.4, abs=0.09)


def test_crops_cut_no_object_below_half() -> None:
    objects = [Box(0, 0, 0, 30, 30, 900), Box(1, 60, 50, 40, 30, 1200), Box(2, 0, 60, 100, 20, 2000, crowd=True)]
    windows = [drawn_window((100, 80), objects, np.random.default_rng(seed), 0.3) for seed in range(60)]
    assert len(set(windows)) > 30
    for window in windows:
        assert 0 <= window.left < window.right <= 100
        assert 0 <= window.top < window.bottom <= 80
        assert (window.right - window.left) * (window.bottom - window.top) >= 0.29 * 8000
        for box in objects[:2]:
            cut = inside(box, window)
            assert cut is None or (cut[2] - cut[0]) * (cut[3] - cut[1]) >= 0.5 * box.width * box.height
        assert keeps(window, objects[2])
    assert drawn_window((100, 80), objects, np.random.default_rng(0), 1.0) == (0, 0, 100, 80)
    assert any(inside(objects[0], window) is None for window in windows)


def test_one_object_with_two_names_is_one() -> None:
    corners = [(0.0, 0.0, 10.0, 10.0), (0.0, 0.0, 10.0, 9.5), (0.0, 0.0, 10.0, 10.0), (0.0, 0.0, 5.0, 10.0)]
    boxes, names = merged(corners, [1, 2, 1, 3], 20)
    assert names == [[1, 2], [1], [3]]  # two of one name on one another are two
    assert boxes[0] == (0.25, 0.25, 0.5, 0.5)


def picture_of(labels: list[int], images: list[int], crowds: frozenset[int] = frozenset()) -> Picture:
    """One of images, the last of which shows crowds."""
    boxes = [(0.5, 0.5, 0.1, 0.1)] * len(labels)
    parts = [Part(image, crowds if image == images[-1] else frozenset()) for image in images]
    return Picture(torch.zeros(3, 1, 1), boxes, [[label] for label in labels], parts)


def test_negatives_are_names_that_are_surely_not_there(data: DetectionSet) -> None:
    """Of all names; of the labelled ones alone; of LVIS's lists, those that an image of a mosaic has."""
    names = replace(data, classes=list("abcdef"))
    assert negatives_of(names, picture_of([1, 3], [0])) == [0, 2, 4, 5]
    assert negatives_of(names, picture_of([1], [0], frozenset({2}))) == [0, 3, 4, 5]
    assert negatives_of(replace(names, labelled=frozenset({0, 1, 2})), picture_of([1], [0])) == [0, 2]
    nowhere = [frozenset[int]()] * len(data)
    lvis = replace(
        names, frequency=list("rcfrcf"), objects=[[]] * len(data), absent=[frozenset({0, 2}), frozenset({2, 4})]
    )
    assert negatives_of(lvis, picture_of([1], [0])) == [0, 2]
    assert negatives_of(lvis, picture_of([1], [0, 1])) == [0, 2, 4]
    assert negatives_of(lvis, picture_of([2], [0, 1])) == [0, 4]
    unsure = replace(names, unsure=[frozenset({4}), *nowhere[1:]])
    assert negatives_of(unsure, picture_of([1], [0])) == [0, 2, 3, 5]


def test_what_is_known_of_a_part_is_what_its_image_lists(data: DetectionSet) -> None:
    """A name that is a positive in one part of a mosaic is no negative in another that says nothing of it."""
    square = Box(1, 0, 0, 4, 4, 16)
    lvis = replace(
        data,
        classes=list("abcdef"),
        frequency=list("rcfrcf"),
        objects=[[square, square._replace(label=3)], [square._replace(label=5)]],
        absent=[frozenset({0}), frozenset({2})],
        partial=[frozenset({3}), frozenset()],
        unsure=[frozenset(), frozenset({2})],
    )
    assert known_of(lvis, Part(0, frozenset())) == {0, 1}  # of 3 not every object has a box
    assert known_of(lvis, Part(1, frozenset())) == {5}  # of 2 there was a broken box
    assert known_of(lvis, Part(0, frozenset({1}))) == {0}
    assert known_of(lvis, Part(None, frozenset())) == set(range(6))


def test_names_count_in_the_parts_that_know_them(data: DetectionSet) -> None:
    """A crowd of one part takes its name from there alone; a batch says so of each part."""
    crowded = [[box._replace(crowd=True) for box in data.objects[0]], *data.objects[1:]]
    words = replace(data, classes=["w1", "w2", "w3"], objects=crowded)
    source, config = BoxedImages(words), replace(PLAIN, mosaics=(0.0, 1.0))
    collate = Pictures(source, config, 96, WordTokenizer())
    loader = Loader(source, collate, LoaderPlan(6, 0, 1, 0), World())
    (batch,) = loader.batches(0, 1)
    label = crowded[0][0].label
    assert batch.known.shape == (6, 4, batch.queries.shape[1])
    assert batch.sides.tolist() == [2] * 6
    unknown = 0
    for row in range(6):
        names = (batch.texts[batch.queries[row].clamp(min=0), 0] - 1).masked_fill(batch.queries[row] < 0, -1)
        for part in batch.known[row]:
            assert not part[batch.queries[row] < 0].any()
            missing = [int(name) for name in names[~part] if name >= 0]
            assert set(missing) <= {box.label for box in crowded[0]}
            unknown += label in missing
    assert unknown >= 1


def test_patches_lie_in_the_part_that_their_middle_does() -> None:
    known = torch.zeros(2, 9, 3, dtype=torch.bool)
    known[0, 0, 0] = True
    known[1, 1, 1] = known[1, 6, 2] = True
    at = known_of_patches(known, torch.tensor([1, 3]), (5, 5)).unflatten(1, (5, 5))
    assert at[0].tolist() == [[[True, False, False]] * 5] * 5
    thirds = [0, 0, 1, 2, 2]  # middles at 0.1, 0.3, 0.5, 0.7, 0.9
    for y in range(5):
        for x in range(5):
            place = thirds[y], thirds[x]
            assert at[1, y, x].tolist() == [False, place == (0, 1), place == (2, 0)]


def test_of_a_set_labelled_in_part_no_other_name_is_a_negative(silc_data: Path) -> None:
    """VOC's images under COCO's names: an unlabelled cup is no negative."""
    file = silc_data / "detection" / "coco_boxes" / "annotations" / "instances_train_voc.json"
    data, _ = read_training(file)
    voc = {place for place, number in enumerate(data.category_ids) if data.labelled and place in data.labelled}
    assert len(voc) == 20
    words = replace(data, classes=[f"w{number}" for number in range(len(data.classes))])
    config = replace(PLAIN, mosaics=(0.5, 0.5))
    collate = Pictures(BoxedImages(words), config, 32, WordTokenizer())
    for number, picture in enumerate(pictures(words, config, 32, 4)):
        asked = collate.names_of(picture, (0, 0, number))
        assert set(asked) <= voc
        assert len(asked) >= 19


def test_the_class_of_a_broken_box_is_asked_of_no_patch_without_one(tmp_path: Path) -> None:
    """The image shows it, though its box is left out."""
    file = write_set(tmp_path, "train", range(1, 7))
    values = json.loads(file.read_text())
    first = values["annotations"][0]
    first["bbox"] = [-5, 0, 8, 8]
    file.write_text(json.dumps(values))
    data, _ = read_training(file)
    image = data.ids.index(first["image_id"])
    assert data.unsure[image] == {first["category_id"] - 1}
    collate = Pictures(BoxedImages(data), PLAIN, 32, WordTokenizer())
    only = replace(data, objects=[[] for _ in data.objects])
    assert first["category_id"] - 1 not in negatives_of(only, picture_of([], [image]))
    assert first["category_id"] - 1 not in collate.names_of(picture_of([], [image]), (0, 0, 0))


def test_what_is_known_of_names_is_in_the_fingerprint(data: DetectionSet) -> None:
    """A run goes on with the same negatives; those of earlier versions go on by their boxes."""
    plain = BoxedImages(data)
    for other in (
        replace(data, labelled=frozenset({0, 1})),
        replace(data, unsure=[frozenset({1})] * len(data)),
        replace(data, frequency=["f", "r", "c"], absent=[frozenset({0})] * len(data)),
    ):
        assert BoxedImages(other).fingerprint != plain.fingerprint
        assert BoxedImages(other).former_fingerprint == plain.former_fingerprint


def test_names_are_as_many_as_asked_each_in_a_prompt(data: DetectionSet) -> None:
    many = replace(data, classes=[f"w{number}" for number in range(40)])
    collate = Pictures(BoxedImages(many), replace(PLAIN, negatives=5, templates="clip7"), 32, WordTokenizer())
    drawn = [collate.names_of(picture_of([3, 1], [0]), (0, 0, number)) for number in range(30)]
    assert all(len(one) == 7 and list(one)[:2] == [1, 3] for one in drawn)
    assert len({label for one in drawn for label in one}) > 30
    assert len({one[3] for one in drawn}) == 7  # all prompts are met


def test_forbidden_names_are_met_nowhere(data: DetectionSet, tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("Green_Square\nsomething else\n")
    left_out = forbidden_names(str(tmp_path / "names.txt"), data)
    assert left_out == {1}
    kept = without(data, left_out)
    assert {box.label for own in kept.objects for box in own} == {0, 2}
    for picture in pictures(kept, PLAIN):
        assert 1 not in negatives_of(kept, picture)
    rare = replace(data, frequency=["f", "r", "c"], absent=[frozenset({0, 1})] * len(data))
    assert forbidden_names("rare", rare) == {1}
    assert without(rare, frozenset({1})).absent[0] == {0}
    (tmp_path / "none.txt").write_text("cat\n")
    with pytest.raises(BadInput, match="names no category of coco, for example 'red square'"):
        forbidden_names(str(tmp_path / "none.txt"), data)


def test_a_batch_holds_what_its_pictures_do(data: DetectionSet) -> None:
    source = BoxedImages(data)
    words = replace(data, classes=["w1", "w2", "w3"])
    collate = Pictures(BoxedImages(words), replace(PLAIN, negatives=1), 96, WordTokenizer())
    loader = Loader(source, collate, LoaderPlan(4, 0, 1, 0), World())
    (batch,) = loader.batches(0, 1)
    assert batch.pixels.shape == (4, 3, 96, 96)
    for row, key in enumerate(batch.keys):
        truth = data.objects[data.ids.index(int(key))]
        assert batch.labels[row].any(dim=1).sum() == len(truth)
        side, names = max(data.sizes[data.ids.index(int(key))]), batch.texts[batch.queries[row], 0]
        for place, box in enumerate(truth):
            assert batch.boxes[row, place].tolist() == pytest.approx(
                [(box.x + box.width / 2) / side, (box.y + box.height / 2) / side, box.width / side, box.height / side]
            )
            (column,) = batch.labels[row, place].nonzero().flatten().tolist()
            assert names[column] == 1 + box.label
        present = len({box.label for box in truth})
        assert (batch.queries[row] >= 0).sum() == present + min(1, 3 - present)


def test_ranks_and_resuming_change_no_picture(data: DetectionSet) -> None:
    source, config = BoxedImages(data), replace(PLAIN, mosaics=(0.4, 0.6), crops=0.4, flip=True)
    collate = Pictures(source, config, 32, WordTokenizer())

    def rows(rank: int, ranks: int, start: int) -> list[torch.Tensor]:
        loader = Loader(source, collate, LoaderPlan(4, 0, 1, 0), World(rank, ranks))
        return [pixels for batch in loader.batches(start, 4) for pixels in batch.pixels]

    alone, later = rows(0, 1, 0), rows(0, 1, 2)
    assert all(torch.equal(one, other) for one, other in zip(alone[8:], later, strict=True))
    halves = [rows(rank, 2, 0) for rank in range(2)]
    both = [pixels for step in range(4) for half in halves for pixels in half[2 * step : 2 * step + 2]]
    assert all(torch.equal(one, other) for one, other in zip(alone, both, strict=True))
    assert len({one.numpy().tobytes() for one in alone}) > 12


def test_an_image_that_is_none_is_replaced_and_told(tmp_path: Path) -> None:
    file = write_set(tmp_path, "train", range(1, 7))
    (tmp_path / "train" / "000000000003.png").write_bytes(b"nothing")
    source = BoxedImages(read_training(file)[0])
    loader = Loader(source, Pictures(source, PLAIN, 32, WordTokenizer()), LoaderPlan(6, 0, 1, 0), World())
    (batch,) = loader.batches(0, 1)
    assert [(one.key, one.cause) for one in batch.broken] == [("3", "no_image")]


def test_an_image_of_another_size_is_replaced_and_told(tmp_path: Path) -> None:
    """It would end a training for good, hours in: resuming draws it again."""
    file = write_set(tmp_path, "train", range(1, 7))
    Image.new("RGB", (20, 20)).save(tmp_path / "train" / "000000000003.png")
    source = BoxedImages(read_training(file)[0])
    loader = Loader(source, Pictures(source, PLAIN, 32, WordTokenizer()), LoaderPlan(6, 0, 1, 0), World())
    (batch,) = loader.batches(0, 1)
    assert [(one.key, one.cause) for one in batch.broken] == [("3", "other_size")]
    assert "is 20 x 20, and its boxes are for an image of" in batch.broken[0].detail


@pytest.mark.parametrize("most", [False, True])
def test_broken_boxes_are_left_out_or_refused(tmp_path: Path, most: bool) -> None:
    file = write_set(tmp_path, "train", range(1, 7))
    text = file.read_text()
    file.write_text(
        text.replace('"bbox": [0,', '"bbox": [90,') if most else text.replace('"bbox": [24,', '"bbox": [90,')
    )
    config = replace(PLAIN, train=str(file))
    if most:
        file.write_text(file.read_text().replace('"bbox": [12,', '"bbox": [90,'))
        with pytest.raises(BadInput, match=r"boxes are broken: \d+ outside its image \(annotation 1\); boxes are \[x"):
            training_set(config)
    else:
        data, told = training_set(config)
        assert told == "2 boxes are left out: 2 outside its image (annotation 5)"
        assert sum(map(len, data.objects)) == 10


def test_images_are_turned_as_they_are_held(tmp_path: Path) -> None:
    """Boxes were drawn on the photograph as viewers turn it: stored as it is, its size is told as another."""
    file = write_set(tmp_path, "train", range(1, 3))
    path = tmp_path / "train" / "000000000001.png"
    with Image.open(path) as opened:
        stored = opened.transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = 6
    stored.save(path, exif=exif)
    data, _ = training_set(replace(PLAIN, train=str(file)))
    assert data.image(0).size == data.sizes[0]
    ignored, _ = training_set(replace(PLAIN, train=str(file), exif_orientation="ignore"))
    with pytest.raises(BadInput, match="EXIF"):
        ignored.image(0)
