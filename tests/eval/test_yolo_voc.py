"""YOLO's and VOC's folders say what the same boxes say in COCO's form."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import pytest

from silc.errors import BadInput
from silc.eval.datasets import DetectionSet
from silc.eval.layouts import discover
from silc.eval.layouts.boxes import read_coco, read_folder
from tests.heads.detect.conftest import NAMES, write_set


@pytest.fixture
def coco_set(tmp_path: Path) -> tuple[DetectionSet, dict[str, Any], Path]:
    file = write_set(tmp_path / "coco", "val", range(1, 7))
    return read_coco("coco", file)[0], json.loads(file.read_text()), tmp_path / "coco" / "val"


def as_yolo(values: dict[str, Any], images: Path, root: Path) -> Path:
    shutil.copytree(images, root / "images" / "val")
    (root / "labels" / "val").mkdir(parents=True)
    for image in values["images"]:
        width, height, lines = image["width"], image["height"], []
        for one in values["annotations"]:
            if one["image_id"] == image["id"]:
                x, y, w, h = one["bbox"]
                place = (x + w / 2) / width, (y + h / 2) / height, w / width, h / height
                lines.append(" ".join(map(str, (one["category_id"] - 1, *place))))
        (root / "labels" / "val" / f"{image['id']:012d}.txt").write_text("\n".join(lines))
    names = "".join(f"  {number}: {name}\n" for number, name in enumerate(NAMES))
    (root / "data.yaml").write_text(f"path: .\ntrain: images/train\nval: images/val\nnames:\n{names}")
    return root


def as_voc(values: dict[str, Any], images: Path, root: Path) -> Path:
    shutil.copytree(images, root / "JPEGImages")
    (root / "Annotations").mkdir()
    for image in values["images"]:
        objects = ""
        for one in values["annotations"]:
            if one["image_id"] == image["id"]:
                x, y, w, h = one["bbox"]
                sides = {"xmin": x + 1, "ymin": y + 1, "xmax": x + w, "ymax": y + h}
                box = "".join(f"<{side}>{value}</{side}>" for side, value in sides.items())
                name = escape(NAMES[one["category_id"] - 1])
                hard = int(one["id"] == 1)
                objects += f"<object><name>{name}</name><difficult>{hard}</difficult><bndbox>{box}</bndbox></object>"
        size = f"<size><width>{image['width']}</width><height>{image['height']}</height></size>"
        text = f"<annotation><filename>{image['file_name']}</filename>{size}{objects}</annotation>"
        (root / "Annotations" / f"{image['id']:012d}.xml").write_text(text)
    (root / "ImageSets" / "Main").mkdir(parents=True)
    stems = [f"{image['id']:012d}\n" for image in values["images"]]
    (root / "ImageSets" / "Main" / "val.txt").write_text("".join(stems))
    return root


@pytest.mark.parametrize("form", [as_yolo, as_voc])
def test_the_same_boxes(form: Any, coco_set: tuple[DetectionSet, dict[str, Any], Path], tmp_path: Path) -> None:
    wanted, values, images = coco_set
    place = form(values, images, tmp_path / "detection" / "own")
    data, broken = read_folder(place, "val")
    assert not broken.counts
    assert data.sizes == wanted.sizes
    assert len(data.images) == 6
    for index, (own, theirs) in enumerate(zip(data.objects, wanted.objects, strict=True)):
        assert [data.classes[box.label] for box in own] == [wanted.classes[box.label] for box in theirs]
        for box, other in zip(own, theirs, strict=True):
            assert box[1:6] == pytest.approx(other[1:6], abs=1e-9)
        assert data.image(index).size == wanted.sizes[index]
        assert data.called(index) == wanted.called(index)
    if form is as_voc:
        assert [box.crowd for own in data.objects for box in own].count(True) == 1
    (source,) = (one for one in discover(tmp_path) if one.kind == "detection")
    assert (source.name, len(source.read())) == ("own", 6)


def test_what_is_wrong_is_told(coco_set: tuple[DetectionSet, dict[str, Any], Path], tmp_path: Path) -> None:
    _, values, images = coco_set
    yolo, voc = as_yolo(values, images, tmp_path / "yolo"), as_voc(values, images, tmp_path / "voc")
    label = yolo / "labels" / "val" / "000000000001.txt"
    label.write_text("0 0.5 0.5\n9 0.5 0.5 0.1 0.1\n0 0.95 0.5 0.4 0.1\n")
    _, broken = read_folder(yolo, "val")
    assert broken.counts == {"no_box": 1, "unknown_category": 1, "outside": 1}
    assert "annotation 000000000001.txt: 0 0.5 0.5" in str(broken)
    (yolo / "data.yaml").write_text("val: images/val\n")
    (voc / "Annotations" / "000000000001.xml").write_text("<annotation>")
    (tmp_path / "empty").mkdir()
    for place, said in (
        (yolo, "has no names of its classes"),
        (voc, "000000000001.xml is no XML"),
        (tmp_path / "empty", "holds no boxes; add annotations/instances_val.json"),
    ):
        with pytest.raises(BadInput, match=said):
            read_folder(place, "val")
    (voc / "Annotations" / "000000000001.xml").write_text("<annotation><size><width>x</width></size></annotation>")
    with pytest.raises(BadInput, match="says 'x' as its size width"):
        read_folder(voc, "val")
    shutil.rmtree(voc / "Annotations")
    as_voc(values, images, tmp_path / "again")
    (tmp_path / "again" / "JPEGImages" / "000000000002.png").unlink()
    with pytest.raises(BadInput, match=r"has boxes of 000000000002.png, and .* does not exist"):
        read_folder(tmp_path / "again", "val")


def test_a_polygon_is_its_bounding_box_and_a_box_with_a_score_is_no_truth(
    coco_set: tuple[DetectionSet, dict[str, Any], Path], tmp_path: Path
) -> None:
    _, values, images = coco_set
    yolo = as_yolo(values, images, tmp_path / "yolo")
    lines = ["0 0.25 0.5 0.5 0.25 0.75 0.5 0.5 0.75", "1 0.5 0.5 0.2 0.2 0.9", "1 0.1 0.1 nan 0.2 0.3 0.4"]
    (yolo / "labels" / "val" / "000000000001.txt").write_text("\n".join(lines))
    data, broken = read_folder(yolo, "val")
    (box,) = data.objects[0]
    width, height = data.sizes[0]
    assert box[:5] == pytest.approx((0, 0.25 * width, 0.25 * height, 0.5 * width, 0.5 * height))
    assert broken.counts == {"no_box": 2}


def test_a_voc_folder_without_lists_is_for_training_alone(
    coco_set: tuple[DetectionSet, dict[str, Any], Path], tmp_path: Path
) -> None:
    """A score on what was trained on would be one, too."""
    _, values, images = coco_set
    voc = as_voc(values, images, tmp_path / "voc")
    with pytest.raises(BadInput, match=r"Main/train.txt is missing; write the names of the images"):
        read_folder(voc, "train")  # as there are lists
    shutil.rmtree(voc / "ImageSets")
    assert len(read_folder(voc, "train")[0]) == 6
    with pytest.raises(BadInput, match=r"Main/val.txt is missing"):
        read_folder(voc, "val")


def test_data_yaml_names_lists_several_folders_and_roboflows(
    coco_set: tuple[DetectionSet, dict[str, Any], Path], tmp_path: Path
) -> None:
    """What is named is read, and nothing else: images/val, which is there, is another set."""
    _, values, images = coco_set
    yolo = as_yolo(values, images, tmp_path / "yolo")
    for part in ("images", "labels"):
        shutil.copytree(yolo / part / "val", yolo / "valid" / part)
    names = (yolo / "data.yaml").read_text().split("names:")[1]
    (yolo / "valid" / "images" / "000000000006.png").unlink()
    (yolo / "some.txt").write_text("./images/val/000000000002.png\n./images/val/000000000003.png\n")

    def read(said: str) -> DetectionSet:
        (yolo / "data.yaml").write_text(f"val: {said}\nnames:{names}")
        return read_folder(yolo, "val")[0]

    for said, num in (("../valid/images", 5), ("some.txt", 2), ("[images/val, valid/images]", 11)):
        data = read(said)
        assert len(data) == num
        assert all(data.objects)
    for said, told in (
        ("gone.txt", r"data.yaml says 'gone.txt' as its val, and .*gone.txt does not exist"),
        ("[1]", r"data.yaml says \[1\] as its val; it must be a folder"),
    ):
        with pytest.raises(BadInput, match=told):
            read(said)
    (yolo / "some.txt").write_text("gone.png\n")
    with pytest.raises(BadInput, match=r"some.txt names the image gone.png, and"):
        read("some.txt")


def test_a_folder_called_images_above_the_set_is_no_part_of_it(
    coco_set: tuple[DetectionSet, dict[str, Any], Path], tmp_path: Path
) -> None:
    _, values, images = coco_set
    yolo = as_yolo(values, images, tmp_path / "images" / "mine")
    shutil.move(yolo / "images" / "val", yolo / "val")
    for label in (yolo / "labels" / "val").iterdir():
        shutil.move(label, yolo / "val")
    (yolo / "data.yaml").write_text((yolo / "data.yaml").read_text().replace("val: images/val", "val: val"))
    data, _ = read_folder(yolo, "val")
    assert all(data.objects)
