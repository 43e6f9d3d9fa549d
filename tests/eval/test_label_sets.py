"""The sets of open-vocabulary segmentation in miniature, through the command line, against scores counted by hand."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from silc.errors import BadInput
from silc.eval.layouts.coco_maps import NUM_THINGS, UNUSED_IDS, read_objects
from silc.eval.layouts.label_maps import read_voc20b
from silc.eval.prompts import class_names
from tests.eval.trees import labelled, painted, scene

HIGH, WIDE = 24, 32


def deep(path, values):
    """A label map of 16 bits, in the format that its name says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values.astype(np.uint16)).save(path)


def by_hand(truth, predicted, ignored=(), *, absent=True):
    """mIoU in a loop over pixels; a class that is predicted alone counts 0, or not where `absent` is False."""
    right, union = {}, {}
    for true, found in zip(truth.ravel().tolist(), predicted.ravel().tolist(), strict=True):
        if true in ignored:
            continue
        right[true] = right.get(true, 0) + (true == found)
        for one in {true, found}:
            union[one] = union.get(one, 0) + 1
    counted = [one for one in union if absent or one in right]
    return sum(right.get(one, 0) / union[one] for one in counted) / len(counted)


def record_of(scored, root, names, task, *args):
    return scored(root, names, "--tasks", task, "--templates", "plain", *args)["zeroshot_segmentation"]


@pytest.mark.parametrize("suffix", [".tif", ".png"])
@pytest.mark.parametrize(
    ("task", "images", "labels", "classes", "names"),
    [
        (
            "ade847-zs-seg",
            "ADE20K_2021_17_01/images_detectron2/validation",
            "ADE20K_2021_17_01/annotations_detectron2/validation",
            847,
            [name.split(", ")[0] for name in class_names("ade_847")],
        ),
        (
            "pc459-zs-seg",
            "VOCdevkit/VOC2010/JPEGImages",
            "VOCdevkit/VOC2010/annotations_detectron2/pc459_val",
            459,
            class_names("pascal_context_459"),
        ),
    ],
)
def test_many_classes_in_the_trees_of_detectron2(tmp_path, scored, task, images, labels, classes, names, suffix):
    """As its scripts write them, TIFF of 16 bits with 65535 for what is no class, or PNG."""
    seen, stored, miou = scene((3, classes - 1), offset=0, zero=65_535)
    painted(tmp_path / "data" / images / "a.jpg", seen)
    painted(tmp_path / "data" / images / "without_a_label.jpg", seen)
    deep(tmp_path / "data" / labels / f"a{suffix}", stored)
    record = record_of(scored, tmp_path / "data", names, task)
    assert record["metrics"]["miou"] == pytest.approx(miou)
    assert record["protocol"]["num_images"] == 1
    assert record["protocol"]["num_classes"] == classes
    assert "num_words" not in record["protocol"]


def test_a_class_of_847_may_be_called_by_any_of_its_words(tmp_path, scored):
    """Of 847 classes 217 have synonyms; the pixels here look like the second words of two of them."""
    root = tmp_path / "data/ADE20K_2021_17_01"
    lines = [line.split(", ") for line in class_names("ade_847")]
    words = sorted({word.strip() for line in lines for word in line})
    seen, stored, miou = scene((1, 4), offset=0, zero=65_535)
    # There are more words than painted colours: those that are seen come first.
    words = ["edifice", "route", *(word for word in words if word not in ("edifice", "route"))]
    painted(root / "images_detectron2/validation/a.jpg", np.where(seen == 1, 0, 1))
    deep(root / "annotations_detectron2/validation/a.png", stored)
    record = record_of(scored, tmp_path / "data", words, "ade847-zs-seg", "--names", "synonyms")
    assert record["metrics"]["miou"] == pytest.approx(miou)
    assert record["protocol"]["num_classes"] == 847
    assert record["protocol"]["num_words"] == sum(map(len, lines))
    assert record["protocol"]["names"] == "synonyms"


def voc(root, seen, stored, year="VOC2012", kind="Segmentation", labels="SegmentationClass"):
    place = root / "VOCdevkit" / year
    painted(place / "JPEGImages/a.jpg", seen)
    labelled(place / labels / "a.png", stored)
    (place / "ImageSets" / kind).mkdir(parents=True, exist_ok=True)
    (place / "ImageSets" / kind / "val.txt").write_text("a\n")


def with_background(first, second, background):
    """What is seen, and VOC's labels: two classes (by index among the names), and a band of background at the top.

    Of the background's 8 rows, 2 look like the first class; of the first class's columns, 4 look like the second.
    """
    seen = np.full((HIGH, WIDE), first)
    seen[:, 12:] = second
    seen[:6] = background
    stored = np.full((HIGH, WIDE), first + 1)
    stored[:, 16:] = second + 1
    stored[:8] = 0
    stored[:, 31] = 255  # the border between objects
    return seen, stored


@pytest.mark.parametrize("folder", ["SegmentationClass", "SegmentationClassAug"])
def test_voc20b_is_catsegs(tmp_path, scored, folder):
    """59 names; those from 20 on are background, whichever of them a pixel looks like."""
    names = class_names("voc_20b_59_catseg")
    assert len(names) == 59
    assert names[:20] == class_names("voc_20")
    seen, stored = with_background(2, 7, background=0)
    seen[:6] = 20 + np.arange(6 * WIDE).reshape(6, WIDE) % 39
    voc(tmp_path / "data", seen, stored, labels=folder)
    if folder == "SegmentationClassAug":  # which is read where it is; the other has the same masks
        voc(tmp_path / "data", seen, np.zeros_like(stored))
    record = record_of(scored, tmp_path / "data", names, "voc20b-zs-seg")
    truth = np.where(stored == 0, 20, stored - 1)
    assert record["metrics"]["miou"] == pytest.approx(by_hand(truth, np.minimum(seen, 20), ignored=[254]))
    assert record["details"]["class_iou"][20]["class"] == "background"
    protocol = record["protocol"]
    assert (protocol["num_classes"], protocol["num_words"], protocol["tuned_on_labels"]) == (21, 59, False)


def test_catsegs_mean_leaves_out_what_is_predicted_alone(tmp_path, scored):
    """The protocol of CAT-Seg's tables: a sofa is seen, and there is none; mmsegmentation counts it as 0."""
    names = class_names("voc_20b_59_catseg")
    seen, stored = with_background(2, 7, background=25)
    seen[10, :9] = names.index("sofa")
    voc(tmp_path / "data", seen, stored)
    truth, predicted = np.where(stored == 0, 20, stored - 1), np.minimum(seen, 20)
    plain = scored(tmp_path / "data", names, "--tasks", "voc20b-zs-seg")["zeroshot_segmentation"]
    catseg = scored(tmp_path / "data", names, "--tasks", "voc20b-ov-seg")["open_vocabulary_segmentation"]
    counted, left_out = (by_hand(truth, predicted, ignored=[254], absent=absent) for absent in (True, False))
    assert plain["metrics"]["miou"] == pytest.approx(counted)
    assert catseg["metrics"]["miou"] == pytest.approx(left_out)
    assert left_out > counted * 1.2
    assert catseg["protocol"]["absent_classes"] == "detectron2"


def test_labels_of_voc20b(tmp_path):
    """`train_net.py` and `prepare_voc.py`: 0 -> 20, 1 -> 0, 20 -> 19, 255 stays."""
    labelled(tmp_path / "a.png", np.array([[0, 1, 20, 255]]))
    assert read_voc20b(tmp_path / "a.png").tolist() == [[20, 0, 19, 255]]


BACKGROUNDS = {"by its word": (), "by a threshold": ("--background", "0.5"), "by names": ("--background-names",)}


@pytest.mark.parametrize("way", BACKGROUNDS)
@pytest.mark.parametrize(
    ("task", "published", "around", "year", "kind", "labels"),
    [
        ("voc21-zs-seg", "voc_20", "wall", "VOC2012", "Segmentation", "SegmentationClass"),
        (
            "pc60-zs-seg",
            "pascal_context_59",
            "air conditioner",
            "VOC2010",
            "SegmentationContext",
            "SegmentationClassContext",
        ),
    ],
)
def test_a_background_that_is_scored(tmp_path, scored, task, published, around, year, kind, labels, way):
    """It is found by the word "background", by a threshold, which was tuned on labels, or by names of what is there."""
    names = [*class_names(published), "background", around]
    background = names.index({"by its word": "background", "by names": around}.get(way, "background"))
    seen, stored = with_background(2, 7, background)
    voc(tmp_path / "data", seen, stored, year, kind, labels)
    record = record_of(scored, tmp_path / "data", names, task, *BACKGROUNDS[way])
    predicted = np.where(seen == background, 0, seen + 1)
    assert record["metrics"]["miou"] == pytest.approx(by_hand(stored, predicted, ignored=[255]))
    assert record["details"]["class_iou"][0]["class"] == "background"
    protocol = record["protocol"]
    assert protocol["num_classes"] == len(class_names(published)) + 1
    assert protocol["tuned_on_labels"] is (way == "by a threshold")
    assert protocol.get("background_names") == (
        {"voc21-zs-seg": 39, "pc60-zs-seg": 400}[task] if "names" in way else None
    )


def raw_of(classes):
    """A stuffthingmap's ids of COCO-Stuff's 171 classes; 255 stays."""
    used = np.array([number for number in range(182) if number not in UNUSED_IDS])
    return np.where(classes == 255, 255, used[np.minimum(classes, 170)])


@pytest.mark.parametrize("ending", ["", "_labelTrainIds", "_instanceTrainIds"])
@pytest.mark.parametrize("way", BACKGROUNDS)
def test_coco_object(tmp_path, scored, ending, way):
    """80 things; stuff is background, and so is what nobody labelled: 255 is scored here, and nothing is ignored."""
    names = [*class_names("coco_stuff_171")[:NUM_THINGS], "background", "brick wall"]
    background = NUM_THINGS + (way == "by names")
    seen, stored = with_background(2, 79, background)
    stuff = np.where(stored == 0, 90, stored - 1)  # a class of stuff, and things
    stuff[stored == 255] = 255
    stuff[0, :5] = 255
    label = {"": raw_of(stuff), "_labelTrainIds": stuff}.get(ending, np.where(stuff < NUM_THINGS, stuff + 1, 0))
    root = tmp_path / "data/coco_stuff164k"
    painted(root / "images/val2017/000000000139.jpg", seen)
    labelled(root / f"annotations/val2017/000000000139{ending}.png", label)
    record = record_of(scored, tmp_path / "data", names, "coco-object-zs-seg", *BACKGROUNDS[way])
    truth = np.where(stuff < NUM_THINGS, stuff + 1, 0)
    predicted = np.where(seen == background, 0, seen + 1)
    assert record["metrics"]["miou"] == pytest.approx(by_hand(truth, predicted))
    assert sum(row["pixels"] for row in record["details"]["class_iou"]) == HIGH * WIDE
    assert record["protocol"]["num_classes"] == 81


def test_stuffthingmaps_become_80_things(tmp_path):
    """GroupViT's convert script: things from 1, every id above 89 is background, and so is 255."""
    labelled(tmp_path / "x.png", np.arange(256).reshape(16, 16))
    found = read_objects(tmp_path / "x.png").ravel().tolist()
    assert [found[number] for number in (0, 1, 10, 12, 89)] == [1, 2, 11, 12, 80]
    assert set(found[90:]) == {0}
    assert sorted(set(found)) == list(range(81))


def test_sets_share_trees_and_none_asks_for_more_than_its_own(tmp_path):
    """A tree with one image serves every set that is made of it; those with other label maps are not found."""
    from silc.eval.layouts import discover

    seen, stored = with_background(2, 7, 0)
    voc(tmp_path, seen, stored)
    voc(tmp_path, seen, stored, "VOC2010", "SegmentationContext", "SegmentationClassContext")
    assert [source.name for source in discover(tmp_path)] == ["pc59", "pc60", "voc20", "voc21", "voc20b"]


def test_a_compressed_tiff_is_told(tmp_path, scored):
    seen, stored, _ = scene((3, 8), offset=0, zero=65_535)
    place = tmp_path / "data/VOCdevkit/VOC2010"
    painted(place / "JPEGImages/a.jpg", seen)
    labels = place / "annotations_detectron2/pc459_val/a.tif"
    labels.parent.mkdir(parents=True)
    Image.fromarray(stored.astype(np.uint16)).save(labels, compression="tiff_deflate")
    with pytest.raises(BadInput, match=r"a\.tif: its TIFF is compressed; convert it to a PNG of 16 bits"):
        record_of(scored, tmp_path / "data", class_names("pascal_context_459"), "pc459-zs-seg")


def test_two_label_maps_of_an_image_are_told(tmp_path, scored):
    place = tmp_path / "data/VOCdevkit/VOC2010"
    painted(place / "JPEGImages/a.jpg", np.zeros((HIGH, WIDE), int))
    for suffix in ("png", "tif"):
        deep(place / f"annotations_detectron2/pc459_val/a.{suffix}", np.zeros((HIGH, WIDE)))
    with pytest.raises(BadInput, match=r"a\.png and .*a\.tif are labels of one image; leave one of them out"):
        record_of(scored, tmp_path / "data", class_names("pascal_context_459"), "pc459-zs-seg")


def test_a_label_outside_the_classes_is_told(tmp_path, scored):
    stored = np.full((HIGH, WIDE), 459)
    place = tmp_path / "data/VOCdevkit/VOC2010"
    painted(place / "JPEGImages/a.jpg", np.zeros((HIGH, WIDE), int))
    deep(place / "annotations_detectron2/pc459_val/a.png", stored)
    with pytest.raises(BadInput, match=r"pc459/a: label 459 is outside its 459 classes \(0 to 458, 65535 is ignored\)"):
        record_of(scored, tmp_path / "data", class_names("pascal_context_459"), "pc459-zs-seg")


@pytest.mark.parametrize(
    ("task", "said"),
    [
        ("pc459-zs-seg", r"pc459_val is missing; `silc data prepare pc459` makes it from the release"),
        ("ade847-zs-seg", r"images_detectron2/validation is missing; `silc data prepare ade847` makes it"),
        ("pc60-zs-seg", r"SegmentationContext/val\.txt is missing; `silc data prepare pc59` makes it"),
        ("coco-object-zs-seg", r"coco_stuff164k/images/val2017 is missing; `silc eval --list --root "),
    ],
)
def test_a_set_that_is_not_there_is_told_with_what_makes_it(tmp_path, scored, task, said):
    seen, stored = with_background(2, 7, 0)
    voc(tmp_path / "data", seen, stored)
    (tmp_path / "data/VOCdevkit/VOC2010/JPEGImages").mkdir(parents=True)
    with pytest.raises(BadInput, match=f"{task}: .*{said}"):
        record_of(scored, tmp_path / "data", ["a"], task)
