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
        (tmp_path / "empty", "holds no boxes; needed are annotations/instances_val.json"),
    ):
        with pytest.raises(BadInput, match=said):
            read_folder(place, "val")
    (voc / "Annotations" / "000000000001.xml").write_text("<annotation><size><width>x</width></size></annotation>")
    with pytest.raises(BadInput, match="says 'x' as its size width"):
        read_folder(voc, "val")
    shutil.rmtree(voc / "Annotations")
    as_voc(values, images, tmp_path / "again")
    (tmp_path / "again" / "JPEGImages" / "000000000002.png").unlink()
    with pytest.raises(BadInput, match=r"has boxes of 000000000002.png, and .* is not there"):
        read_folder(tmp_path / "again", "val")
