"""The task of detection: what is found becomes boxes in pixels, and scores that can be worked out by hand."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from silc.distributed import World
from silc.errors import BadInput
from silc.eval import detection, suite
from silc.eval.average_precision import average_precision
from silc.eval.config import EvalConfig
from silc.eval.detection import best, centre_boxes, share_found
from silc.eval.layouts.boxes import parsed, read_coco, read_scored
from tests.eval.conftest import WORDS, Oracle, colour_of

pytest.importorskip("faster_coco_eval")


@dataclass
class Quarters(Oracle):
    """Finds in each quarter of the square, which is 24 px wide, the word of the colour in its middle."""

    record: ClassVar[Mapping[str, Any]] = {"head": "quarters"}

    def entering(self, image: Image.Image) -> Tensor:
        square = Image.new("RGB", (24, 24))
        factor = 24 / max(image.size)
        smaller = image.resize((round(image.width * factor), round(image.height * factor)), Image.Resampling.NEAREST)
        square.paste(smaller, (0, 0))
        return torch.from_numpy(np.array(square)).permute(2, 0, 1)

    def find(self, images: Tensor, queries: Tensor) -> tuple[Tensor, Tensor]:
        seen = self.encode_dense(images, "colour")[:, 6::12, 6::12].flatten(1, 2)  # [B, 4, 41]
        boxes = torch.tensor([[x, y, 0.5, 0.5] for y in (0.25, 0.75) for x in (0.25, 0.75)])
        return 10 * (seen @ queries.T) - 5, boxes.expand(len(images), -1, -1)


def write(root: Path, name: str = "quarters", **changed: Any) -> Path:
    """Four images, wide and tall, of quarters of the square in the colours of w1 to w3; COCO JSON beside them."""
    place = root / "detection" / name
    (place / "val").mkdir(parents=True)
    (place / "annotations").mkdir()
    images, annotations = [], []
    for number, (width, height) in enumerate([(40, 20), (20, 40), (40, 40), (40, 40)], start=1):
        picture, side = Image.new("RGB", (width, height)), 20
        for quarter in range(4):
            x, y = side * (quarter % 2), side * (quarter // 2)
            if x < width and y < height:
                word = 1 + (number + quarter) % 3
                picture.paste(colour_of(word), (x, y, x + side, y + side))
                box = {"id": len(annotations) + 1, "image_id": number, "category_id": 10 * word, "iscrowd": 0}
                annotations.append({**box, "bbox": [x, y, side, side], "area": side * side})
        picture.save(place / "val" / f"{number}.png")
        images.append({"id": number, "file_name": f"{number}.png", "width": width, "height": height})
    categories = [{"id": 10 * word, "name": WORDS[word]} for word in (1, 2, 3)]
    values = {"images": images, "annotations": annotations, "categories": categories} | changed
    (place / "annotations" / "instances_val.json").write_text(json.dumps(values))
    return place


def scored(root: Path, model: Oracle, tasks: str = "quarters-detection", **fields: Any) -> list[Any]:
    return suite.run({"it": model}, suite.tasks(EvalConfig(root=str(root), tasks=tasks, **fields)))


def test_what_is_right_scores_one_and_is_shown(tmp_path: Path) -> None:
    write(tmp_path)
    (done,) = scored(tmp_path, Quarters(), batch_size=3)
    record = done.record
    assert record.task == "open_vocabulary_detection"
    assert (record.metrics["ap"], record.metrics["ap50"]) == (1, 1)
    assert {"ap_small", "ar_100"} <= record.metrics.keys()
    assert "ap_large" not in record.metrics  # nothing is
    assert 0 <= record.chance["ap50"] < 0.3
    assert record.protocol["templates"] == "clip7"
    assert record.protocol["head"] == "quarters"
    rows = record.details["class_ap"]
    assert sum(row["objects"] for row in rows) == 12
    assert {row["class"]: row["ap"] for row in rows} == {"w1": 1, "w2": 1, "w3": 1}
    assert [picture.caption.split(":")[0] for picture in done.pictures] == ["best"] * 3 + ["worst"]
    assert {picture.caption.split(":")[1] for picture in done.pictures} == {f" {number}.png" for number in range(1, 5)}


def test_what_is_wrong_scores_less(tmp_path: Path) -> None:
    """A model that takes w3 for w1 is sure of each w1 that is none, and of the others as before."""

    class Confused(Quarters):
        def find(self, images: Tensor, queries: Tensor) -> tuple[Tensor, Tensor]:
            logits, boxes = super().find(images, queries)
            return logits.index_select(-1, torch.tensor([2, 1, 2])), boxes

    write(tmp_path)
    right, wrong = (scored(tmp_path, model)[0].record for model in (Quarters(), Confused()))
    assert wrong.metrics["ap50"] < 0.9 * right.metrics["ap50"]


def test_a_model_without_boxes_is_refused_and_all_tasks_are_others(tmp_path: Path) -> None:
    write(tmp_path)
    with pytest.raises(BadInput, match="oracle finds no boxes; train a head that does: `silc train detect"):
        scored(tmp_path, Oracle())
    with pytest.raises(BadInput, match="no task 'all'"):
        scored(tmp_path, Quarters(), "all")
    assert scored(tmp_path, Quarters(), "*-detection")[0].record.metrics["ap"] == 1


def test_ranks_shares_together_are_the_whole(tmp_path: Path) -> None:
    write(tmp_path)
    (task,) = suite.tasks(EvalConfig(root=str(tmp_path), tasks="quarters-detection", batch_size=1))
    assert isinstance(task, detection.OpenVocabularyDetection)
    queries = detection.text_queries(Quarters(), task.data.classes, "plain")
    whole, shares = task._share(Quarters(), queries), []
    for rank in range(2):
        task.world = World(rank, 2)
        shares.append(task._share(Quarters(), queries))
    assert [len(share) for share in shares] == [2, 2]
    assert shares[0] | shares[1] == whole


def test_the_best_boxes_of_all_names_in_pixels() -> None:
    logits = torch.tensor([[0.0, 3.0], [2.0, -1.0]])
    boxes = torch.tensor([[0.25, 0.25, 0.5, 0.5], [0.9, 0.4, 0.4, 0.2]])
    found = best(logits, boxes, (100, 50), most=3)
    assert [one.label for one in found] == [1, 0, 0]  # one patch may have two names
    assert [one.score for one in found] == pytest.approx([0.9526, 0.8808, 0.5], abs=1e-4)
    assert found[0][1:5] == pytest.approx((0, 0, 50, 50))
    assert found[1][1:5] == pytest.approx((70, 30, 30, 20))  # cut at the image, which is half as high as the square


def test_the_sure_are_ranked_by_their_logits_and_equal_ones_by_their_place() -> None:
    """Sigmoids of 30 and 40 are 1 in float32."""
    boxes = torch.tensor([[0.25, 0.25, 0.5, 0.5], [0.75, 0.75, 0.5, 0.5]])
    found = best(torch.tensor([[30.0, 40.0, 0.0], [0.0, 35.0, 0.0]]), boxes, (10, 10), most=5)
    assert [(one.label, one.x) for one in found] == [(1, 0), (1, 5), (0, 0), (2, 0), (0, 5)]


def one_name_each(logits: Tensor) -> Tensor:
    """Logits [N, Q], of which each patch keeps its best."""
    return logits.where(logits == logits.amax(dim=1, keepdim=True), -torch.inf)


def within(corners: Sequence[float], width: int, height: int) -> tuple[float, ...]:
    """Left, top, width and height of what lies in the image of a box; () if nothing does."""
    x0, y0, x1, y1 = np.clip(corners, 0, [width, height, width, height]).tolist()
    return (x0, y0, x1 - x0, y1 - y0) if x1 > x0 and y1 > y0 else ()


@pytest.mark.parametrize("kind", ["multilabel", "exclusive"])
def test_the_best_boxes_are_scenics(silc_data: Path, kind: str) -> None:
    """Its top 25 over all classes, or one name a box; it cuts no box and keeps those of the padding.

    Its COCO JSON drops class 0, which is padding there and a name here, and moves centres into the image.
    """
    owl = silc_data / "oracles" / "owl"
    predictions = json.loads((owl / "scenic_predictions.json").read_text())[kind]
    with np.load(owl / "scenic_topk.npz") as arrays:
        theirs = dict(arrays)
    for row, (height, width) in enumerate(theirs["image_sizes_hw"].tolist()):
        wanted = []
        for place in (-theirs[f"{kind}/scores"][row]).argsort(kind="stable"):
            x, y, w, h = (max(height, width) * theirs[f"{kind}/boxes"][row, place]).tolist()
            if placed := within((x - w / 2, y - h / 2, x + w / 2, y + h / 2), width, height):
                wanted.append((theirs[f"{kind}/labels"][row, place], *placed, theirs[f"{kind}/scores"][row, place]))
        logits = torch.from_numpy(theirs["scores"][row]).logit()
        logits = one_name_each(logits) if kind == "exclusive" else logits
        found = best(logits, torch.from_numpy(theirs["boxes"][row]), (width, height), most=len(wanted))
        assert len(wanted) > 5
        for one, other in zip(found, wanted, strict=True):
            assert tuple(one) == pytest.approx(other, rel=1e-4, abs=1e-3)
        own = [one for one in predictions if one["image_id"] == theirs["image_ids"][row]]
        said = {(one["category_id"] - 1, round(one["score"], 4)) for one in own}
        assert {(one.label, round(one.score, 4)) for one in found if one.label} <= said
        assert all(label for label, _ in said)


@pytest.mark.parametrize("row", [0, 1])
def test_the_best_boxes_are_transformers(silc_data: Path, row: int) -> None:
    """Owlv2's post-processing: one name a box, no box cut. (OwlViT's is of images that were squashed to a square.)"""
    with np.load(silc_data / "oracles" / "owl" / "hf_owlv2.npz") as theirs:
        height, width = theirs["post/target_sizes"][row].tolist()
        least, order = float(theirs["post/threshold"]), (-theirs[f"post/{row}/scores"]).argsort()
        logits = one_name_each(torch.from_numpy(theirs["logits"][row]))
        found = best(logits, torch.from_numpy(theirs["pred_boxes"][row]), (width, height))
        ours = [one for one in found if one.score > least]
        scores, labels, boxes = (theirs[f"post/{row}/{name}"][order] for name in ("scores", "labels", "boxes"))
    placed = [within(box, width, height) for box in boxes]
    wanted = [(name, *box, score) for name, box, score in zip(labels, placed, scores, strict=True) if box]
    assert len(wanted) > 3
    for one, other in zip(ours, wanted, strict=True):
        assert tuple(one) == pytest.approx(other, rel=1e-4, abs=1e-3)


def test_boxes_of_the_padding_are_none() -> None:
    boxes = torch.tensor([[0.5, 0.9, 0.2, 0.1], [0.5, 0.25, 0.2, 0.1]])
    (only,) = best(torch.tensor([[3.0], [0.0]]), boxes, (100, 50))
    assert only.y == pytest.approx(20)


def test_the_centre_box_is_what_the_sizes_say(tmp_path: Path) -> None:
    place = write(tmp_path)
    data = read_scored("quarters", place / "annotations" / "instances_val.json", place / "val")
    first = centre_boxes(data)[2][0]
    sides = [(b.width / w, b.height / h) for (w, h), own in zip(data.sizes, data.objects, strict=True) for b in own]
    wide = [
        x for (x, _), own in zip(sides, [b for o in data.objects for b in o], strict=True) if own.label == first.label
    ]
    assert first.width == pytest.approx(40 * sum(wide) / len(wide))
    assert first.x + first.width / 2 == pytest.approx(20)
    assert share_found(data.objects[0], centre_boxes(data)[0]) < 1


def test_the_centre_box_is_told_where_there_is_one_and_of_no_crowd(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = write(tmp_path)
    data = read_scored("quarters", place / "annotations" / "instances_val.json", place / "val")
    crowds = [[*own, own[0]._replace(crowd=True, width=2)] for own in data.objects]
    assert centre_boxes(replace(data, objects=crowds)) == centre_boxes(data)
    assert "chance" in scored(tmp_path, Quarters())[0].record.protocol
    monkeypatch.setattr(detection, "CENTRE_LIMIT", 5)
    record = scored(tmp_path, Quarters())[0].record
    assert "chance" not in record.protocol
    assert not record.chance


def test_lvis_reads_what_is_absent_and_partial(silc_data: Path) -> None:
    file = silc_data / "detection" / "lvis_like" / "lvis_val.json"
    data, broken = read_coco("lvis", file, silc_data / "detection" / "coco_boxes" / "val")
    assert (len(data), sum(map(len, data.objects)), len(data.frequency)) == (100, 746, 80)
    assert not broken.counts
    assert "traffic light" in data.classes
    assert sum(bool(one) for one in data.partial) == 23
    worth = average_precision(data, centre_boxes(data))
    assert {"apr", "apc", "apf"} <= worth.metrics.keys()


def test_coco_of_photographs(silc_data: Path) -> None:
    folder = silc_data / "detection" / "coco_boxes" / "annotations"
    data = read_scored("coco", folder / "instances_val.json", folder.parent / "val")
    boxes = [box for own in data.objects for box in own]
    assert (len(data), len(boxes), sum(box.crowd for box in boxes)) == (100, 847, 9)
    assert data.image(0).size == data.sizes[0]
    partly, _ = read_coco("voc", folder / "instances_train_voc.json")
    assert partly.labelled is not None
    assert len(partly.labelled) == 20


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"annotations": []}, "it has no boxes to learn from or to score"),
        ({"categories": [{"id": 10}]}, "an entry of categories has no name"),
        ({"categories": [{"id": 10, "name": ""}]}, "an entry of categories has no name"),
        ({"images": None}, "has no list of images; COCO's form has images"),
        ({"images": [{"id": 1, "file_name": "gone.png", "width": 40, "height": 20}]}, "broken boxes"),
    ],
)
def test_bad_files_are_told(tmp_path: Path, changed: dict[str, Any], said: str) -> None:
    place = write(tmp_path, **changed)
    if said == "broken boxes":
        said = "names the image gone.png, and .* does not exist"
    with pytest.raises(BadInput, match=said) as told:
        scored(tmp_path, Quarters())
    assert str(place / "annotations" / "instances_val.json") in str(told.value)
    assert "\n" not in str(told.value)


def test_broken_boxes_are_told_by_cause() -> None:
    values = {
        "images": [{"id": 1, "width": 10, "height": 10}],
        "categories": [{"id": 1, "name": "dog"}],
        "annotations": [
            {"id": number, "image_id": image, "category_id": category, "bbox": box}
            for number, (image, category, box) in enumerate(
                [
                    (1, 1, [0, 0, 5, 5]),
                    (1, 1, [8, 0, 5, 5]),
                    (1, 1, [0, 0, 0, 5]),
                    (1, 1, [0, 0, 5]),
                    (1, 1, [0, 0, float("nan"), 5]),
                    (2, 1, [0, 0, 5, 5]),
                    (1, 2, [0, 0, 5, 5]),
                    (1, 1, [8, 0, 6, 5]),
                ]
            )
        ],
    }
    data, broken = parsed("set", values, "set.json")
    assert [len(own) for own in data.objects] == [1]
    assert broken.counts == {"outside": 2, "no_box": 2, "empty": 1, "unknown_image": 1, "unknown_category": 1}
    assert str(broken).startswith(
        "2 outside its image (annotation 1), 2 bbox is not four finite numbers (annotation 3)"
    )


ONE: dict[str, Any] = {
    "images": [{"id": 1, "file_name": "1.png", "width": 10, "height": 10}],
    "categories": [{"id": 1, "name": "dog"}, {"id": 2, "name": "cat"}],
    "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 5, 5]}],
}


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"width": None}, "image 1 has the width None and the height 10; both must be whole numbers of pixels"),
        ({"height": "640px"}, "image 1 has the width 10 and the height 640px; both must be whole"),
        ({"width": float("nan")}, "image 1 has the width nan"),
        ({"width": 10.5}, "image 1 has the width 10.5"),
        ({"id": [1]}, r"an entry of images has the id \[1\]; an id must be a whole number or text"),
        ({"neg_category_ids": None}, "neg_category_ids of image 1 is no list; it must hold ids of categories"),
    ],
)
def test_images_of_wrong_types_are_told(changed: dict[str, Any], said: str) -> None:
    categories = [{**one, "frequency": "r"} for one in ONE["categories"]]
    with pytest.raises(BadInput, match=said):
        parsed("set", ONE | {"images": [ONE["images"][0] | changed], "categories": categories}, "set.json")


@pytest.mark.parametrize(
    ("changed", "cause"),
    [
        ({"image_id": [1]}, "unknown_image"),
        ({"category_id": {}}, "unknown_category"),
        ({"bbox": [0, 0, 10**400, 5]}, "no_box"),
        ({"bbox": [0, 0, "5", 5]}, "no_box"),
        ({"area": "large"}, "no_area"),
        ({"iscrowd": "yes"}, "no_crowd"),
    ],
)
def test_boxes_of_wrong_types_are_broken_ones(changed: dict[str, Any], cause: str) -> None:
    values = ONE | {"annotations": [*ONE["annotations"], ONE["annotations"][0] | {"id": 2} | changed]}
    data, broken = parsed("set", values, "set.json")
    assert broken.counts == {cause: 1}
    assert [len(own) for own in data.objects] == [1]
    known = cause not in ("unknown_image", "unknown_category")
    assert data.unsure == [{0} if known else set()]


def test_crowds_are_said_by_numbers_or_texts() -> None:
    said = [0, 1, "0", "1", False, True, None]
    boxes = [ONE["annotations"][0] | {"id": number, "iscrowd": crowd} for number, crowd in enumerate(said)]
    data, broken = parsed("set", ONE | {"annotations": boxes}, "set.json")
    assert not broken.counts
    assert [box.crowd for box in data.objects[0]] == [False, True, False, True, False, True, False]


@pytest.mark.parametrize("only", [3, [], [7], [[1]]])
def test_the_labelled_categories_are_the_files(only: Any) -> None:
    with pytest.raises(BadInput, match=r"voc_labelled_category_ids .* is no list of ids of its categories"):
        parsed("set", ONE | {"info": {"voc_labelled_category_ids": only}}, "set.json")
    assert parsed("set", ONE | {"info": {"voc_labelled_category_ids": [2]}}, "set.json")[0].labelled == {1}


def test_a_frequency_alone_makes_no_lvis_set() -> None:
    """Without lists of what is absent a federated score would leave out what is wrong."""
    categories = [{**one, "frequency": "c"} for one in ONE["categories"]]
    data, _ = parsed("set", ONE | {"categories": categories}, "set.json")
    assert (data.frequency, data.absent, data.partial) == ((), (), ())
    images = [ONE["images"][0] | {"neg_category_ids": [2, 9]}]
    data, _ = parsed("set", ONE | {"categories": categories, "images": images}, "set.json")
    assert (list(data.frequency), list(data.absent)) == (["c", "c"], [frozenset({1})])


def test_lvis_and_names_with_folders_find_their_images(tmp_path: Path) -> None:
    """As the guide lays them out: LVIS's file in lvis/, the photographs in coco/; file_name may name the split."""
    (tmp_path / "coco" / "train2017").mkdir(parents=True)
    (tmp_path / "lvis").mkdir()
    Image.new("RGB", (10, 10)).save(tmp_path / "coco" / "train2017" / "1.png")
    images = [{"id": 1, "width": 10, "height": 10, "coco_url": "http://images.cocodataset.org/train2017/1.png"}]
    (tmp_path / "lvis" / "lvis_v1_train.json").write_text(json.dumps(ONE | {"images": images}))
    data, _ = read_coco("lvis", tmp_path / "lvis" / "lvis_v1_train.json")
    assert data.image(0).size == (10, 10)
    (tmp_path / "coco" / "annotations").mkdir()
    images = [ONE["images"][0] | {"file_name": "train2017/1.png"}]
    file = tmp_path / "coco" / "annotations" / "mine.json"
    file.write_text(json.dumps(ONE | {"images": images}))
    assert read_coco("mine", file)[0].image(0).size == (10, 10)


def test_a_folder_that_trains_can_be_scored(tmp_path: Path) -> None:
    place = write(tmp_path)
    (place / "val").rename(place / "images")
    assert scored(tmp_path, Quarters())[0].record.metrics["ap"] == 1


def test_an_image_of_another_size_is_told(tmp_path: Path) -> None:
    place = write(tmp_path)
    Image.new("RGB", (20, 40)).save(place / "val" / "1.png")
    with pytest.raises(BadInput, match=r"image 1.png is 20 x 40, and its boxes are for an image of 40 x 20.*EXIF"):
        scored(tmp_path, Quarters())
