"""`silc data prepare`: raw releases in miniature, decoded, and scored by `silc eval` against counts by hand."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest
import scipy.io
from PIL import Image

from silc.cli import main
from silc.eval.prompts import class_names
from silc.eval.releases import ade, context
from tests.eval.releases.test_decoding import packed
from tests.eval.test_label_sets import raw_of
from tests.eval.trees import labelled, painted, scene

FIRST_WORDS = [name.split(", ")[0] for name in class_names("ade_847")]


def files_below(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def ade20k(raw, name="ADE_val_00000001"):
    """Two folders of scenes as the release has them; class 3 is a tree, 846 an adding machine, 847 none."""
    seen, stored, miou = scene((3, 846), offset=0, zero=847)
    numbers = np.array([*ade.ids(), 5])[stored]
    place = raw / "ADE20K_2021_17_01/images/ADE/validation/urban/street"
    painted(place / f"{name}.jpg", seen)
    colours = np.stack([numbers // 256 * 10, numbers % 256, np.zeros_like(numbers)], -1).astype(np.uint8)
    Image.fromarray(colours).save(place / f"{name}_seg.png")
    (place / name).mkdir()
    (place / name / "instance_000.png").write_bytes(b"")
    return miou


def context_mat(raw, listed="ImageSets/Main/val.txt"):
    seen, stored, miou = scene((1, 458), offset=1, zero=0)
    place = raw / "VOCdevkit/VOC2010"
    painted(place / "JPEGImages/2008_000001.jpg", seen)
    (place / "trainval").mkdir()
    scipy.io.savemat(place / "trainval/2008_000001.mat", {"LabelMap": stored.astype(np.uint16)}, do_compression=True)
    (place / listed).parent.mkdir(parents=True, exist_ok=True)
    (place / listed).write_text("2008_000001\n")
    return miou


def stuffthings(raw):
    seen, stored, miou = scene((3, 79), offset=0, zero=255)
    root = raw / "coco_stuff164k"
    painted(root / "images/val2017/000000000139.jpg", seen)
    labelled(root / "annotations/val2017/000000000139.png", raw_of(stored))
    return miou


def prepared(capsys, *args):
    code = main(["data", "prepare", *map(str, args)])
    told = capsys.readouterr()
    return code, told.out + told.err


@pytest.mark.parametrize("listed", ["ImageSets/Main/val.txt", "pascalcontext_val.txt"])
def test_pc459(tmp_path, scored, capsys, listed):
    miou = context_mat(tmp_path / "raw", listed)
    code, told = prepared(capsys, "pc459", "--root", tmp_path / "raw", "--out", tmp_path / "data")
    assert code == 0, told
    assert "prepared: 2 files" in told
    args = ("--tasks", "pc459-zs-seg", "--templates", "plain")
    record = scored(tmp_path / "data", class_names("pascal_context_459"), *args)["zeroshot_segmentation"]
    assert record["metrics"]["miou"] == pytest.approx(miou)


def test_ade847(tmp_path, scored, capsys):
    miou = ade20k(tmp_path / "raw")
    code, told = prepared(capsys, "ade847", "--root", tmp_path / "raw", "--out", tmp_path / "data")
    assert code == 0, told
    assert "images that are scored: 1; the published set has 2,000; files: 2" in told
    assert "does not have the images of the published set, so scores on it are not comparable" in told
    tree = tmp_path / "data/ADE20K_2021_17_01"
    assert files_below(tree) == [
        "annotations_detectron2/validation/ADE_val_00000001.png",
        "images_detectron2/validation/ADE_val_00000001.jpg",
    ]
    # JPEG changes the colours that the reader knows classes by.
    seen = scene((3, 846), offset=0, zero=847)[0]
    painted(tree / "images_detectron2/validation/ADE_val_00000001.jpg", seen)
    args = ("--tasks", "ade847-zs-seg", "--templates", "plain")
    record = scored(tmp_path / "data", FIRST_WORDS, *args)["zeroshot_segmentation"]
    assert record["metrics"]["miou"] == pytest.approx(miou)


def test_large_photographs_of_ade_are_made_smaller(tmp_path, capsys):
    place = tmp_path / "ADE20K_2021_17_01/images/ADE/validation/a/b"
    place.mkdir(parents=True)
    Image.new("RGB", (1100, 520), (200, 30, 60)).save(place / "ADE_val_00000001.jpg")
    Image.new("RGB", (1100, 520), (110, 162, 0)).save(place / "ADE_val_00000001_seg.png")  # 2978, a wall
    code, told = prepared(capsys, "ade847", "--root", tmp_path)
    assert code == 0, told
    image = Image.open(tmp_path / "ADE20K_2021_17_01/images_detectron2/validation/ADE_val_00000001.jpg")
    label = Image.open(tmp_path / "ADE20K_2021_17_01/annotations_detectron2/validation/ADE_val_00000001.png")
    assert image.size == label.size == (1083, 512)
    assert set(np.unique(label)) == {0}
    assert np.abs(np.asarray(image, int) - (200, 30, 60)).max() < 5


def merged(raw, masks, phase="val"):
    """trainval_merged.json of one photograph: masks of numbers, the later ones above."""
    height, width = 24, 32
    place = raw / "VOCdevkit/VOC2010"
    annotations = [{"image_id": 7, "category_id": number, "segmentation": packed(mask)[0]} for number, mask in masks]
    image = {"image_id": 7, "file_name": "2008_000001.jpg", "height": height, "width": width, "phase": phase}
    (place / "trainval_merged.json").write_text(json.dumps({"images": [image], "annos_segmentation": annotations}))


@pytest.mark.parametrize("source", ["json", "mat"])
@pytest.mark.parametrize("task", ["pc59-zs-seg", "pc60-zs-seg"])
def test_pc59_and_pc60(tmp_path, scored, capsys, source, task):
    """Numbers of the 459 become 1 to 59, the others the background; of masks the later one is above."""
    first, second, other = context.numbers_59()[2], context.numbers_59()[7], 1  # an accordion is none of the 59
    seen, stored, _ = scene((2, 7), offset=1, zero=0)
    seen[0] = 59  # looks like the background
    place = tmp_path / "VOCdevkit/VOC2010"
    painted(place / "JPEGImages/2008_000001.jpg", seen)
    numbers = np.array([other, 0, 0, first, 0, 0, 0, 0, second])[stored]
    if source == "json":
        everywhere = np.ones((24, 32), bool)
        merged(tmp_path, [(first, everywhere), (second, stored == 8), (other, stored == 0)])
    else:
        (place / "trainval").mkdir()
        scipy.io.savemat(place / "trainval/2008_000001.mat", {"LabelMap": numbers.astype(np.uint16)})
        (place / "ImageSets/Main").mkdir(parents=True)
        (place / "ImageSets/Main/val.txt").write_text("2008_000001\n")
    code, told = prepared(capsys, "pc59", "--root", tmp_path)
    assert code == 0, told
    label = np.array(Image.open(place / "SegmentationClassContext/2008_000001.png"))
    assert np.array_equal(label, stored)
    assert (place / "ImageSets/SegmentationContext/val.txt").read_text() == "2008_000001\n"
    names = [*class_names("pascal_context_59"), "background"]
    record = scored(tmp_path, names, "--tasks", task, "--templates", "plain")["zeroshot_segmentation"]
    first_iou, second_iou = 12 / 16, 16 / 20
    wanted = [first_iou, second_iou] if task == "pc59-zs-seg" else [1, first_iou, second_iou]
    assert record["metrics"]["miou"] == pytest.approx(sum(wanted) / len(wanted))


@pytest.mark.parametrize(("name", "ending"), [("coco-object", "_instanceTrainIds"), ("coco-stuff", "_labelTrainIds")])
def test_conversions_of_stuffthingmaps(tmp_path, scored, capsys, name, ending):
    stuffthings(tmp_path)
    names = [*class_names("coco_stuff_171"), "background"]

    def record():
        args = ("--tasks", f"{name}-zs-seg", "--templates", "plain")
        return scored(tmp_path, names, *args)["zeroshot_segmentation"]

    raw = record()
    code, told = prepared(capsys, name, "--root", tmp_path)
    assert code == 0, told
    labels = tmp_path / "coco_stuff164k/annotations/val2017"
    assert files_below(labels) == ["000000000139.png", f"000000000139{ending}.png"]
    (labels / "000000000139.png").unlink()
    assert record()["metrics"] == raw["metrics"]


def test_nothing_is_written_over(tmp_path, capsys):
    """A second time nothing is made; a file that is there is kept as it is, and counted."""
    context_mat(tmp_path / "raw")
    args = ("pc459", "--root", tmp_path / "raw", "--out", tmp_path / "data")
    prepared(capsys, *args)
    label = tmp_path / "data/VOCdevkit/VOC2010/annotations_detectron2/pc459_val/2008_000001.png"
    label.write_bytes(b"mine")
    os.utime(label, ns=(1, 1))
    code, told = prepared(capsys, *args)
    assert code == 0
    assert "prepared: 0 files, 2 existed and are kept" in told
    assert (label.read_bytes(), label.stat().st_mtime_ns) == (b"mine", 1)


def test_a_folder_appears_when_it_is_complete(tmp_path, capsys):
    """The second map is damaged: no folder of a half set is left, which would be scored as if it were whole."""
    context_mat(tmp_path, "pascalcontext_val.txt")
    place = tmp_path / "VOCdevkit/VOC2010"
    painted(place / "JPEGImages/2008_000002.jpg", np.zeros((24, 32), int))
    (place / "trainval/2008_000002.mat").write_bytes(b"half a file")
    (place / "pascalcontext_val.txt").write_text("2008_000001\n2008_000002\n")
    before = files_below(tmp_path)
    code, told = prepared(capsys, "pc459", "--root", tmp_path)
    assert code == 2
    assert "2008_000002.mat: it is no MATLAB file of version 5" in told
    assert files_below(tmp_path) == before
    assert not (place / "annotations_detectron2/pc459_val").exists()


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["ade84"], "unknown set 'ade84'; did you mean 'ade847'?"),
        (["ade847"], "has no photographs ADE_val_*.jpg two folders below; unpack the full release there"),
        (["ade847", "--train"], "ade847 has no training part that is prepared; leave out --train"),
        (["pc459"], "has no list of its val photographs; add one of"),
        (["pc59"], "has no list of its val photographs"),
        (["coco-object"], "is missing"),
        (["coco-stuff", "--root", "nowhere"], "--root nowhere is no folder"),
    ],
)
def test_what_cannot_be_prepared_is_told_in_a_line(tmp_path, capsys, args, said):
    root = [] if "--root" in args else ["--root", tmp_path]
    code, told = prepared(capsys, *args, *root)
    assert code == 2
    assert said in told
    assert files_below(tmp_path) == []


def test_a_release_that_is_not_whole_is_told(tmp_path, capsys):
    context_mat(tmp_path)
    mat = tmp_path / "VOCdevkit/VOC2010/trainval/2008_000001.mat"
    mat.unlink()
    assert f"the label map {mat} is missing" in prepared(capsys, "pc459", "--root", tmp_path)[1]
    ade20k(tmp_path)
    colours = next(tmp_path.rglob("*_seg.png"))
    colours.unlink()
    assert f"has no map of its objects; add {colours}" in prepared(capsys, "ade847", "--root", tmp_path)[1]
    (tmp_path / "VOCdevkit/VOC2010/trainval_merged.json").write_text("[]")
    assert "is no trainval_merged.json of Pascal Context" in prepared(capsys, "pc59", "--root", tmp_path)[1]


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (
            {"images": [{"image_id": 7, "file_name": "2008_000001.jpg", "phase": "val", "width": 32}]},
            "needs file_name, phase",
        ),
        ({"images": [7]}, "the photograph 7 needs file_name, phase"),
        ({"annos_segmentation": [{"category_id": 3}]}, "is no trainval_merged.json of Pascal Context: KeyError"),
        ({"category_id": 460}, "mask 0 of 2008_000001.jpg is damaged: its category_id is 460, not one of 0 to 459"),
        ({"segmentation": [[0, 0, 5, 5, 5, 0]]}, "mask 0 of 2008_000001.jpg is damaged: TypeError"),
        ({"segmentation": {"size": [24, 32], "counts": "\u00e9"}}, "is damaged: UnicodeEncodeError"),
        ({"segmentation": {"size": [24, 32], "counts": [1]}}, r"is damaged: a mask of [24, 32] has 1 pixels"),
        ({"segmentation": {"size": [24, 32]}}, "is damaged: KeyError"),
    ],
)
def test_a_damaged_file_of_masks_is_told(tmp_path, capsys, changed, said):
    painted(tmp_path / "VOCdevkit/VOC2010/JPEGImages/2008_000001.jpg", scene((2, 7), offset=1, zero=0)[0])
    merged(tmp_path, [(1, np.ones((24, 32), bool))])
    file = tmp_path / "VOCdevkit/VOC2010/trainval_merged.json"
    values = json.loads(file.read_text())
    for key, value in changed.items():
        (values if key in values else values["annos_segmentation"][0])[key] = value
    file.write_text(json.dumps(values))
    code, told = prepared(capsys, "pc59", "--root", tmp_path)
    assert code == 2
    assert said in told
    assert str(file) in told
