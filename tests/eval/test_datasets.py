"""Reading folders, and saying what is wrong with them."""

from __future__ import annotations

import json
import shutil
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from silc.errors import BadInput
from silc.eval import metrics
from silc.eval.datasets import SegmentationSet, reduce_zero_label
from silc.eval.files import lines_of, read_label
from silc.eval.layouts import discover
from silc.eval.layouts.captions import read_retrieval
from silc.eval.layouts.classes import order_of, read_classification
from silc.eval.layouts.label_maps import read_segmentation


def test_folders_are_found_by_kind_and_name(root):
    assert [(found.kind, found.name, found.needs) for found in discover(root)] == [
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
        ("{", "is no JSON"),
        ('{"image": "images/0.png"}', "must be a JSON list"),
        ('[{"image": "images/0.png"}]', r"0\.png has no caption"),
        ('[{"captions": ["a"]}]', r"line 1, which does not exist"),
        ("[]", "lists no images"),
        (json.dumps([{"image": "images/0.png", "captions": []}]), r"0\.png has no caption"),
        (json.dumps([{"image": "images/0.png", "captions": ["ok", "  "]}]), r"0\.png has an empty caption"),
        (json.dumps([{"image": "images/0.png", "captions": [" "]}]), r"0\.png has only empty captions"),
        (json.dumps([{"image": "images/0.png", "captions": [None]}]), r"0\.png has no caption"),
        (json.dumps([{"image": "images/0.png", "captions": [None, 3]}]), r"0\.png has the number 3 for a caption"),
        (json.dumps([{"image": "images/0.png", "captions": [["a"]]}]), r"0\.png has a list within a list"),
        (json.dumps([{"image": "images/0.png", "caption": {"en": "a"}}]), r"0\.png has an object"),
    ],
)
def test_bad_captions(root, content, message):
    file = root / "retrieval" / "pairs" / "captions.json"
    file.write_text(content)
    with pytest.raises(BadInput, match=message):
        read_retrieval(file.parent)


@pytest.mark.parametrize(
    ("entries", "captions"),
    [
        ([{"image": "images/0.png", "captions": "dog"}], [["dog"]]),
        ([{"file_name": "images/0.png", "caption": " a "}, {"path": "images/1.png", "text": ["b"]}], [["a"], ["b"]]),
        ([{"image": "images/0.png", "captions": ["a", None]}], [["a"]]),
        (
            [
                {"image": f"{at}images/{i}.png", "captions": [c]}
                for at, i, c in (("", 0, "a"), ("", 1, "b"), ("./", 0, "c"))
            ],
            [["a", "c"], ["b"]],
        ),
        ([{"image": "images/0.png", "captions": ["a"]}] * 2, [["a", "a"]]),
    ],
)
def test_captions_are_read_as_tables_are(root, entries, captions):
    """And an image that is listed again is one image, not its own wrong answer."""
    file = root / "retrieval" / "pairs" / "captions.json"
    file.write_bytes(json.dumps(entries).encode("utf-8-sig"))
    data = read_retrieval(file.parent)
    assert data.captions == captions
    assert len(data.images) == len(data.files) == len(captions)
    file.with_name("captions.csv").write_text("image,caption\nimages/2.png,by a table\n")
    assert read_retrieval(file.parent).captions == captions
    file.unlink()
    assert read_retrieval(file.parent).captions == [["by a table"]]


@pytest.mark.parametrize(
    ("folders", "classes", "places"),
    [
        (["Zebra", "apple"], ["apple", "Zebra"], [1, 0]),
        (["hot_dog", "Cat", "ice-cream"], ["cat", "hot dog", "Ice Cream"], [1, 0, 2]),
        (["Dog", "dog"], ["dog", "Dog"], [1, 0]),
        (sorted(map(str, range(12))), [f"class {i}" for i in range(12)], [0, 1, 10, 11, 2, 3, 4, 5, 6, 7, 8, 9]),
        (sorted(map(str, range(1, 12))), list("abcdefghijk"), [0, 9, 10, 1, 2, 3, 4, 5, 6, 7, 8]),
        (
            ["00", "01", "10", "2", "3", "4", "5", "6", "7", "8", "9"],
            list("abcdefghijk"),
            [0, 1, 10, 2, 3, 4, 5, 6, 7, 8, 9],
        ),
        (["10", "9"], ["9", "10"], [1, 0]),
        (["n01440764", "n01443537", "n02606052"], ["tench", "goldfish", "x"], [0, 1, 2]),
        (["c01", "c02", "c10"], ["x", "y", "z"], [0, 1, 2]),
        (["great white shark", "tench"], ["tench, Tinca tinca", "great white shark, white shark"], [1, 0]),
        (["white_shark", "Tench, Tinca Tinca"], ["tench, Tinca tinca", "great white shark, white shark"], [1, 0]),
        (["crane, bird", "crane, machine"], ["crane, machine", "crane, bird"], [1, 0]),
        (["cafe\u0301", "the\u0301"], ["th\u00e9", "caf\u00e9"], [1, 0]),
    ],
)
def test_class_folders_meet_their_names(folders, classes, places):
    assert order_of(folders, classes, "test") == places


@pytest.mark.parametrize(
    ("folders", "classes", "message"),
    [
        (["Zebra", "apple", "cow"], ["apple", "zebra", "bull"], "no single class has the name of the folder 'cow'"),
        (["a", "b"], ["b", "c"], "has the name of the folder 'a'"),
        (["0", "2", "3"], ["x", "y", "z"], "numbers from 0 to 3; number them 0 to 2 or 1 to 3"),
        (["1", "01"], ["x", "y"], "number them 0 to 1 or 1 to 2, each once"),
        (["class1", "class10", "class2"], ["x", "y", "z"], "'class10' or 'class2' comes first"),
        (["B", "a"], ["x", "y"], "'B' or 'a' comes first"),
        (["1a", "10b", "2c"], ["x", "y", "z"], "comes first"),
        (["bird", "crane"], ["crane, machine", "crane, bird"], "no single class has the name of the folder 'crane'"),
        (["shark", "white shark"], ["tench", "shark, white shark"], "has the name of the folder 'shark'"),
    ],
)
def test_class_folders_are_not_joined_by_guess(folders, classes, message):
    with pytest.raises(BadInput, match=message) as raised:
        order_of(folders, classes, "test")
    assert "\n" not in str(raised.value)


def test_images_are_found_by_any_usual_name_or_named(root):
    folder = root / "classification" / "shapes"
    image = (folder / "test" / "00" / "0.png").read_bytes()
    for name in ("A.PNG", "b.Gif", "c.jfif", "d.bmp"):
        (folder / "test" / "00" / name).write_bytes(image)
    for name in ("._0.png", ".hidden.png", "Thumbs.db", "notes.txt"):
        (folder / "test" / "00" / name).touch()
    assert read_classification(folder).labels == [0] * 6 + [1, 1, 2, 2, 3, 3, 4, 4, 5, 5]
    (folder / "test" / "01" / "x.TIF").touch()
    with pytest.raises(BadInput, match=r"01/x\.TIF is of a format that is not read; convert it"):
        read_classification(folder)


def test_images_beside_or_below_class_folders_are_named(root):
    folder = root / "classification" / "shapes" / "test"
    image = (folder / "00" / "0.png").read_bytes()
    (folder / "03" / "more" / "yet").mkdir(parents=True)
    assert len(read_classification(folder.parent).labels) == 12
    (folder / "03" / "more" / "yet" / "1.png").write_bytes(image)
    with pytest.raises(BadInput, match=r"03/more holds images below a class folder"):
        read_classification(folder.parent)
    shutil.rmtree(folder / "03" / "more")
    (folder / "1.png").write_bytes(image)
    with pytest.raises(BadInput, match=r"test/1\.png lies in no class folder"):
        read_classification(folder.parent)


@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\n\n  \n", "\r"])
def test_lists_of_names_with_marks_and_other_ends(root, mark, end):
    folder = root / "segmentation" / "stripes"
    names = lines_of(folder / "classes.txt")
    (folder / "classes.txt").write_bytes((mark + end.join(names) + end).encode())
    data = read_segmentation(folder)
    assert (data.background_ignored, data.classes) == (True, names[1:])


def test_lines_end_where_editors_end_them(tmp_path):
    """A class more or less would give all that follow the names of others."""
    names = ["ice\u2028cream", "a\x0cb", "c\x85d", "e\x1ef", "tail"]
    (tmp_path / "classes.txt").write_bytes("\n\ufeff".join(["\ufeffhead", *names]).encode())
    assert lines_of(tmp_path / "classes.txt") == ["head", *names]


def test_a_name_that_comes_twice_is_refused(root):
    for kind, name, read in (
        ("classification", "shapes", read_classification),
        ("segmentation", "stripes", read_segmentation),
    ):
        file = root / kind / name / "classes.txt"
        lines = lines_of(file)
        file.write_text("\n".join([*lines[:-1], f" {lines[0]} "]))
        with pytest.raises(BadInput, match=rf"classes\.txt names the class '{lines[0]}' twice"):
            read(root / kind / name)


def test_text_that_is_no_utf_8_is_told(root):
    file = root / "classification" / "shapes" / "classes.txt"
    file.write_bytes("a\nb\n".encode("utf-16"))
    with pytest.raises(BadInput, match="save it as UTF-8"):
        read_classification(file.parent)


def test_labels_and_images_meet_by_name(root, caplog):
    folder = root / "segmentation" / "stripes"
    (folder / "labels" / "1.png").rename(folder / "labels" / "1.PNG")
    shutil.copy(folder / "labels" / "0.png", folder / "labels" / "lonely.png")
    assert read_segmentation(folder).ids == ["0", "1", "2"]
    assert "1 labels have no image and are not scored, for example lonely.png" in caplog.text
    twin = next((folder / "images").glob("1.*"))
    shutil.copy(twin, folder / "images" / "1.webp")
    with pytest.raises(BadInput, match="have the same label"):
        read_segmentation(folder)


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
    with pytest.raises(BadInput, match=r"set/one: the image is 4 x 3 but its label has shape .*it must be \[3, 4\]"):
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
    for source in discover(real_data):
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
        elif kind == "classification":
            shots = read_classification(path)
            sizes[kind, name] = (len(shots.classes), len(shots.labels))
            assert {image.mode for image in shots.images} == {"RGB"}
    assert {key: sizes[key] for key in SIZES} == SIZES


@pytest.mark.parametrize("num", [254, 255, 256, 300, 847])
@pytest.mark.parametrize("background", [False, True])
def test_every_class_counts_and_what_is_ignored_is_none(num, background, tmp_path):
    """Through files: the last classes, 255 among them, and the one value that is not scored."""
    stored = num + background
    ignored = 255 if stored <= 255 else 65_535
    label = np.arange(stored, dtype=np.uint16)[None].repeat(2, axis=0)
    label[1] = ignored
    image, file = Image.new("RGB", (stored, 2)), tmp_path / "labels" / "1.png"
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
    image.save(tmp_path / "images" / "1.png")
    (Image.fromarray(label.astype(np.uint8)) if stored <= 256 and ignored == 255 else Image.fromarray(label)).save(file)
    names = [*(["background"] if background else []), *(f"c{index}" for index in range(num))]
    (tmp_path / "classes.txt").write_text("\n".join(names))
    data = read_segmentation(tmp_path)
    truth = torch.from_numpy(data.example(0)[1])
    assert data.ignore == ignored
    assert int(metrics.confusion(truth, truth.clamp(max=num - 1), num, data.ignore).trace()) == num


def test_an_ignored_label_that_is_a_class_is_refused():
    with pytest.raises(BadInput, match="the ignored label 255 is one of the 300 classes"):
        metrics.confusion(torch.zeros(4), torch.zeros(4), 300, 255)


@pytest.mark.parametrize("bits", [2, 4])
def test_greys_of_few_bits_are_classes(bits, tmp_path):
    """Pillow stretches them to 0..255."""
    size, file = 2**bits, tmp_path / "label.png"
    palette = Image.fromarray(np.arange(size, dtype=np.uint8)[None])
    packed = np.packbits(np.unpackbits(np.asarray(palette).reshape(-1, 1), axis=1)[:, -bits:].reshape(1, -1), axis=1)
    chunk = lambda kind, body: struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))  # noqa: E731
    header = struct.pack(">IIBBBBB", size, 1, bits, 0, 0, 0, 0)
    body = zlib.compress(b"\0" + packed.tobytes())
    file.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b""))
    assert read_label(file)[0].tolist() == list(range(size))


def test_a_label_turned_against_its_photograph_is_told(tmp_path):
    label = np.zeros((50, 30), np.uint8)
    data = SegmentationSet("phone", ["a"], ["0"], [Image.new("RGB", (50, 30))], [label])
    with pytest.raises(BadInput, match=r"use --exif-orientation ignore or apply \(eval\.exif_orientation\)"):
        data.example(0)


def test_a_set_of_background_alone_is_refused(root):
    (root / "segmentation/stripes/classes.txt").write_text("background\n")
    with pytest.raises(BadInput, match="names only the background"):
        read_segmentation(root / "segmentation/stripes")
