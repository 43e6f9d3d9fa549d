"""Reading folders, and saying what is wrong with them."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from silc.eval.datasets import (
    SegmentationSet,
    folders,
    read_classification,
    read_retrieval,
    read_segmentation,
    reduce_zero_label,
)
from silc.types import BadInput


def test_folders_are_found_by_kind_and_name(root):
    assert [(found.kind, found.name, found.needs) for found in folders(root)] == [
        ("classification", "shapes", [root / "classification" / "shapes"]),
        ("retrieval", "pairs", [root / "retrieval" / "pairs"]),
        ("segmentation", "stripes", [root / "segmentation" / "stripes"]),
    ]


def test_classification_folder(root):
    data = read_classification(root / "classification" / "shapes")
    assert (data.name, data.split) == ("shapes", "test")
    assert data.classes == ["w3", "w11", "w20", "w5", "w30", "w17"]
    assert data.labels == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5]
    assert len(data.images) == 12
    assert data.images[0].size == (24, 24)
    assert len(data.images[3:5]) == 2
    assert len(read_classification(root / "classification" / "shapes", "train").labels) == 12


def test_retrieval_folder(root):
    data = read_retrieval(root / "retrieval" / "pairs")
    assert len(data.images) == len(data.captions) == 12
    assert data.captions[1] == ["Here is w1.", "w1 again"]
    assert data.images[0].size == (20, 30)


def test_segmentation_folder_ignores_a_background_class(root):
    data = read_segmentation(root / "segmentation" / "stripes")
    assert data.classes == ["w0", "w7", "w21"]
    assert data.background_ignored
    assert data.ids == ["0", "1", "2"]
    image, truth = data.example(0)
    stored = np.array(Image.open(root / "segmentation" / "stripes" / "labels" / "0.png"))
    assert image.size == (32, 24)
    assert set(np.unique(stored)) == {0, 1, 2, 3, 255}
    assert (truth == np.where(np.isin(stored, [0, 255]), 255, stored.astype(int) - 1)).all()


def test_segmentation_folder_without_background_keeps_its_labels(root):
    folder = root / "segmentation" / "stripes"
    (folder / "classes.txt").write_text("ground\nw0\nw7\nw21\n")
    data = read_segmentation(folder)
    assert len(data.classes) == 4
    assert not data.background_ignored
    assert (data.example(0)[1] == np.array(Image.open(folder / "labels" / "0.png"))).all()


def test_reduce_zero_label():
    assert reduce_zero_label(np.array([0, 1, 150, 255])).tolist() == [255, 0, 149, 255]


def test_palette_labels_are_indices(root):
    file = root / "segmentation" / "stripes" / "labels" / "0.png"
    label = Image.open(file)
    before = read_segmentation(root / "segmentation" / "stripes").example(0)[1]
    label.putpalette([7] * 768)
    assert label.mode == "P"
    label.save(file)
    assert (read_segmentation(root / "segmentation" / "stripes").example(0)[1] == before).all()


# --- what is said of bad folders


@pytest.mark.parametrize(
    ("kind", "name", "read", "missing"),
    [
        ("classification", "shapes", read_classification, "classes.txt"),
        ("classification", "shapes", read_classification, "test"),
        ("retrieval", "pairs", read_retrieval, "captions.json"),
        ("retrieval", "pairs", read_retrieval, "images/3.png"),
        ("segmentation", "stripes", read_segmentation, "classes.txt"),
        ("segmentation", "stripes", read_segmentation, "images"),
        ("segmentation", "stripes", read_segmentation, "labels/1.png"),
    ],
)
def test_a_missing_file_is_named(root, kind, name, read, missing):
    path = root / kind / name / missing
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(BadInput) as raised:
        read(root / kind / name)
    assert str(path) in str(raised.value)
    assert "\n" not in str(raised.value)


def test_class_folders_and_names_differ_in_number(root):
    folder = root / "classification" / "shapes"
    (folder / "classes.txt").write_text("a\nb\n")
    with pytest.raises(BadInput, match="test has 6 class folders for 2 class names"):
        read_classification(folder)


def test_an_empty_class_folder_is_a_name_to_be_confused_with(root):
    folder = root / "classification" / "shapes"
    for file in (folder / "test" / "02").iterdir():
        file.unlink()
    data = read_classification(folder)
    assert (len(data.classes), data.labels) == (6, [0, 0, 1, 1, 3, 3, 4, 4, 5, 5])
    for file in (folder / "test").glob("*/*"):
        file.unlink()
    with pytest.raises(BadInput, match="test holds no images"):
        read_classification(folder)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "must be a JSON list"),
        ('[{"image": "images/0.png"}]', "must be a JSON list"),
        ("[]", "lists no images"),
        (json.dumps([{"image": "images/0.png", "captions": []}]), r"0\.png has no caption or an empty one"),
        (json.dumps([{"image": "images/0.png", "captions": ["ok", "  "]}]), r"0\.png has no caption or an empty one"),
    ],
)
def test_bad_captions(root, content, message):
    file = root / "retrieval" / "pairs" / "captions.json"
    file.write_text(content)
    with pytest.raises(BadInput, match=message):
        read_retrieval(file.parent)


def test_a_file_that_is_no_image(root):
    (root / "classification" / "shapes" / "test" / "00" / "0.png").write_bytes(b"not an image")
    data = read_classification(root / "classification" / "shapes")
    with pytest.raises(BadInput, match=r"cannot read the image .*00/0\.png"):
        data.images[0]


def test_a_label_that_is_no_image(root):
    (root / "segmentation" / "stripes" / "labels" / "2.png").write_bytes(b"not an image")
    data = read_segmentation(root / "segmentation" / "stripes")
    with pytest.raises(BadInput, match=r"cannot read the label .*labels/2\.png"):
        data.example(2)


def labelled(label: np.ndarray, *, background: bool = False) -> SegmentationSet:
    return SegmentationSet("set", ["a", "b"], ["one"], [Image.new("RGB", (4, 3))], [label], background)


def test_label_outside_the_class_list():
    with pytest.raises(BadInput, match=r"set/one: label 2 is outside its 2 classes \(0 to 1, 255"):
        labelled(np.full((3, 4), 2, np.uint8)).example(0)
    assert labelled(np.full((3, 4), 2, np.uint8), background=True).example(0)[1].max() == 1
    with pytest.raises(BadInput, match="label 3 is outside its 3 classes"):
        labelled(np.full((3, 4), 3, np.uint8), background=True).example(0)


@pytest.mark.parametrize("shape", [(4, 3), (3, 4, 3)])
def test_label_of_another_size_than_its_image(shape):
    with pytest.raises(BadInput, match=r"set/one: the image is 4 x 3 but its label has shape .*needed is \[3, 4\]"):
        labelled(np.zeros(shape, np.uint8)).example(0)


# --- the real folders

SIZES = {
    ("classification", "cifar10"): (10, 400),
    ("classification", "tiny_imagenet200"): (200, 1000),
    ("retrieval", "coco_open"): (250, 50),
    ("retrieval", "flickr8k_test"): (5000, 1000),
    ("retrieval", "food_open"): (188, 100),
    ("segmentation", "camvid"): (11, 48),
    ("segmentation", "ccp_clothing"): (58, 36),
    ("segmentation", "coco_panoptic133"): (133, 100),
    ("segmentation", "voc2012"): (20, 155),
}


def test_real_folders_read_completely(real_data):
    sizes = {}
    for source in folders(real_data):
        kind, name, path = source.kind, source.name, source.needs[0]
        if kind == "segmentation":
            data = read_segmentation(path)
            assert data.background_ignored == (name in ("voc2012", "ccp_clothing"))
            for i in range(len(data)):
                image, truth = data.example(i)
                assert truth.shape == (image.height, image.width)
            sizes[kind, name] = (len(data.classes), len(data))
        elif kind == "retrieval":
            pairs = read_retrieval(path)
            sizes[kind, name] = (sum(map(len, pairs.captions)), len(pairs.images))
            assert {image.mode for image in pairs.images} == {"RGB"}
        else:
            shots = read_classification(path)
            sizes[kind, name] = (len(shots.classes), len(shots.labels))
            assert {image.mode for image in shots.images} == {"RGB"}
    assert {key: sizes[key] for key in SIZES} == SIZES
