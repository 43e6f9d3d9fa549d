"""Miniature trees in the layouts of the official archives, scored through the command line against hand counts.

The model reads a class off a colour and knows every published name, so a score differs from 1 exactly where the test
painted something wrong.
"""

from __future__ import annotations

import json
import os
import pickle

import numpy as np
import pytest
from PIL import Image

from silc.cli import main
from silc.errors import BadInput
from silc.eval.layouts import discover
from silc.eval.layouts.cifar import read_batch, read_cifar
from silc.eval.layouts.coco_maps import UNUSED_IDS, read_stuff
from silc.eval.prompts import canonicalize, class_names
from tests.eval.trees import SIZE, check, colour, flat, labelled, painted, scene

# --- classification


def test_imagenet(tmp_path, scored):
    names, root = class_names("imagenet_1000"), tmp_path / "data"
    unique = [canonicalize(name.split(",")[0]) for name in names]
    known = list(dict.fromkeys(unique))
    for index in range(1000):
        (root / f"imagenet/val/n{index:08d}").mkdir(parents=True)
    right, wrong = [0, 1, 2], [(3, 4), (5, 6)]
    for index in right:
        flat(root / f"imagenet/val/n{index:08d}/a.JPEG", known.index(unique[index]))
    for truth, seen in wrong:
        flat(root / f"imagenet/val/n{truth:08d}/a.JPEG", known.index(unique[seen]))
    records = scored(root, known, "--tasks", "imagenet-zs", "--templates", "plain")
    record = records["zeroshot_classification"]
    assert record["metrics"]["acc1"] == 3 / 5
    assert record["protocol"]["num_classes"] == 1000
    assert record["details"]["most_confused"][0]["truth"] == names[3]
    assert (record["examples_seen"], record["train_flops"]) == (7, 8.0)


def batch(folder, name, key, indices, protocol=2):
    folder.mkdir(parents=True, exist_ok=True)
    rows = [np.tile(np.array(colour(index), np.uint8)[:, None], (1, 1024)).ravel() for index in indices]
    content = {b"data": np.array(rows, np.uint8), key: list(range(len(indices)))}
    (folder / name).write_bytes(pickle.dumps(content, protocol=protocol))


@pytest.mark.parametrize("protocol", [3, 4])
def test_cifar100_zero_shot_and_few_shot(tmp_path, scored, protocol):
    folder, names = tmp_path / "data/cifar-100-python", ["apple", "aquarium_fish", "baby"]
    batch(folder, "test", b"fine_labels", [0, 1, 1], protocol)  # the baby looks like a fish
    batch(folder, "train", b"fine_labels", [0, 1, 2], protocol)
    (folder / "meta").write_bytes(pickle.dumps({b"fine_label_names": names}, protocol=protocol))
    records = scored(tmp_path / "data", ["apple", "aquarium fish", "baby"], "--tasks", "*-zs,*-fewshot")
    assert set(records) == {"zeroshot_classification", "fewshot_classification"}
    assert records["zeroshot_classification"]["metrics"]["acc1"] == pytest.approx(2 / 3)
    assert records["fewshot_classification"]["metrics"]["1shot_acc1"] == pytest.approx(2 / 3)
    clip = scored(tmp_path / "data", ["apple", "aquarium fish", "baby"], "--classification", "clip", "--tasks", "*-zs")
    assert clip["zeroshot_classification"]["protocol"]["templates"] == "cifar18"
    assert clip["zeroshot_classification"]["metrics"]["acc1"] == pytest.approx(2 / 3)


def test_cifar10_has_five_training_files(tmp_path):
    folder = tmp_path / "cifar-10-batches-py"
    batch(folder, "test_batch", b"labels", [0, 1], 4)
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": ["airplane", "automobile"]}, protocol=4))
    for number in range(1, 6):
        batch(folder, f"data_batch_{number}", b"labels", [0, 1], 4)
    source = discover(tmp_path)[0]
    assert (source.name, len(source.read().labels), len(source.read_train().labels)) == ("cifar10", 2, 10)
    assert source.read().images[1].getpixel((5, 5)) == colour(1)


def test_pickles_of_python_2_are_read(tmp_path):
    """As numpy wrote them under Python 2: byte strings, numpy.core, a named dtype."""
    old = (
        b"\x80\x02}q\x00(U\x04dataq\x01cnumpy.core.multiarray\n_reconstruct\nq\x02cnumpy\nndarray\nq\x03K\x00\x85U\x01b"
        b"\x87Rq\x04(K\x01K\x02K\x03\x86cnumpy\ndtype\nq\x05U\x02u1K\x00K\x01\x87Rq\x06(K\x03U\x01|NNNJ\xff\xff\xff\xff"
        b"J\xff\xff\xff\xffK\x00tb\x89U\x06\x00\x01\x02\xfd\xfe\xfftbU\x06labelsq\x07]q\x08(K\x01K\x02eu."
    )
    (tmp_path / "old").write_bytes(old)
    found = read_batch(tmp_path / "old")
    assert found["data"].values.tolist() == [[0, 1, 2], [253, 254, 255]]
    assert found["labels"] == [1, 2]


class Evil:
    def __reduce__(self):
        return os.system, ("touch pwned",)


@pytest.mark.parametrize("content", [Evil(), {b"data": Evil()}, {b"data": np.zeros(3)}, [1], {"x": np.array([None])}])
def test_a_pickle_can_run_nothing(tmp_path, content, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "test").write_bytes(pickle.dumps(content, protocol=4))
    with pytest.raises(BadInput, match="is no CIFAR batch"):
        read_batch(tmp_path / "test")
    assert not (tmp_path / "pwned").exists()


def test_batches_without_pixels_are_refused(tmp_path):
    (tmp_path / "meta").write_bytes(pickle.dumps({"label_names": ["a"]}))
    (tmp_path / "test").write_bytes(pickle.dumps({"labels": [0]}))
    with pytest.raises(BadInput, match="holds no CIFAR batches"):
        read_cifar("cifar10", "test", [tmp_path / "test"], tmp_path / "meta", "label")


# --- retrieval


@pytest.mark.parametrize(("name", "folder"), [("coco", "val2014"), ("flickr30k", "flickr30k-images")])
def test_karpathys_captions(tmp_path, scored, name, folder):
    root = tmp_path / "data"
    entries = []
    for index, shown in enumerate([0, 1, 2, 2]):  # the last image shows what the third does
        file = {"filename": f"{index}.jpg", "split": "test"} | ({"filepath": folder} if name == "coco" else {})
        sentences = [{"raw": f"a w{index} "}, {"raw": f"w{index}"}][: 1 + index % 2]
        entries.append(file | {"sentences": sentences})
        flat(root / name / folder / f"{index}.jpg", shown)
    entries.append({"filename": "train.jpg", "split": "train", "sentences": [{"raw": "other"}]})
    (root / name / f"dataset_{name}.json").write_text(json.dumps({"images": entries}))
    record = scored(root, ["w0", "w1", "w2", "w3"])["zeroshot_retrieval"]
    assert record["protocol"]["num_texts"] == 6
    # Texts 0, 1, 1, 2 find their image first; both texts of 3 tie among all others and image 3 is last.
    assert record["metrics"]["image_retrieval_recall@1"] == pytest.approx(4 / 6)
    assert record["metrics"]["text_retrieval_recall@1"] == pytest.approx(3 / 4)
    (root / name / folder / "1.jpg").unlink()
    with pytest.raises(BadInput, match=r"names .*1\.jpg, which does not exist"):
        scored(root, ["w0"])


# --- segmentation: 24 x 32 pixels, so that nothing is resized; each tree has one image with a known mistake


def test_ade20k(tmp_path, scored):
    seen, stored, miou = scene((3, 149), offset=1, zero=0)
    root = tmp_path / "data/ADEChallengeData2016"
    painted(root / "images/validation/ADE_val_00000001.jpg", seen)
    labelled(root / "annotations/validation/ADE_val_00000001.png", stored)
    names = [name.strip() for name in class_names("ade_150")]
    check(scored(tmp_path / "data", names)["zeroshot_segmentation"], miou, 150)


@pytest.mark.parametrize(
    ("year", "labels", "split", "names", "classes", "task"),
    [
        ("VOC2012", "SegmentationClass", "Segmentation", "voc_20", 20, "voc20"),
        ("VOC2010", "SegmentationClassContext", "SegmentationContext", "pascal_context_59", 59, "pc59"),
    ],
)
def test_pascal(tmp_path, scored, year, labels, split, names, classes, task):
    seen, stored, miou = scene((2, 7), offset=1, zero=0)
    stored[0, :16] = 255  # the border between objects
    root = tmp_path / "data/VOCdevkit" / year
    painted(root / "JPEGImages/2007_000033.jpg", seen)
    labelled(root / labels / "2007_000033.png", stored, "P")
    painted(root / "JPEGImages/other.jpg", seen)  # not in the split
    listed = root / "ImageSets" / split / "val.txt"
    listed.parent.mkdir(parents=True)
    listed.write_text("2007_000033\n")
    record = scored(tmp_path / "data", class_names(names), "--tasks", f"{task}-zs-seg")["zeroshot_segmentation"]
    check(record, miou, classes)
    listed.write_text("2007_000033\nmissing\n")
    with pytest.raises(BadInput, match=r"the image .*missing\.jpg is missing"):
        scored(tmp_path / "data", class_names(names))


def voc(root, seen, stored):
    folder = root / "VOCdevkit/VOC2012"
    painted(folder / "JPEGImages/a.jpg", seen)
    labelled(folder / "SegmentationClass/a.png", stored)
    (folder / "ImageSets/Segmentation").mkdir(parents=True)
    (folder / "ImageSets/Segmentation/val.txt").write_text("a\n")


@pytest.mark.parametrize(
    ("args", "window", "stride"),
    # DINOv3 scales the shorter side to 4/3 of the window: 18 px leave the image as it is.
    [(["--segmentation", "tips"], 24, 18), (["--segmentation", "dinov3", "--window", "18"], 18, 9)],
)
def test_protocols_with_softmax(tmp_path, scored, args, window, stride):
    seen, stored, miou = scene((2, 7), offset=1, zero=0)
    voc(tmp_path / "data", seen, stored)
    args = ("--tasks", "voc20-zs-seg", *args)
    record = scored(tmp_path / "data", class_names("voc_20"), *args)["zeroshot_segmentation"]
    assert record["metrics"]["miou"] == pytest.approx(miou)
    assert (record["protocol"]["window"], record["protocol"]["stride"]) == (window, stride)
    assert record["protocol"]["softmax"] is True


def test_a_scored_background(tmp_path, scored):
    """Row 0 is background in the truth, but classes are seen there: its IoU is 0 and theirs lose those pixels."""
    seen, stored, _ = scene((2, 7), offset=1, zero=0)
    voc(tmp_path / "data", seen, stored)
    args = ("--tasks", "voc20-zs-seg", "--background", "0.5", "--mix", "colour")
    record = scored(tmp_path / "data", class_names("voc_20"), *args)["zeroshot_segmentation"]
    first, second = 12 * 23 / (16 * 23 + 12), 16 * 23 / (20 * 23 + 20)
    assert record["metrics"]["miou"] == pytest.approx((0 + first + second) / 3)
    assert record["protocol"]["tuned_on_labels"] is True
    assert record["details"]["class_iou"][0]["class"] == "background"


def test_cityscapes(tmp_path, scored):
    seen, stored, miou = scene((0, 18), offset=0, zero=255)
    root = tmp_path / "data/cityscapes"
    painted(root / "leftImg8bit/val/ulm/ulm_000001_leftImg8bit.png", seen)
    labelled(root / "gtFine/val/ulm/ulm_000001_gtFine_labelTrainIds.png", stored)
    check(scored(tmp_path / "data", class_names("cityscapes_19"))["zeroshot_segmentation"], miou, 19)


@pytest.mark.parametrize("converted", [True, False])
def test_coco_stuff(tmp_path, scored, converted):
    seen, stored, miou = scene((0, 170), offset=0, zero=255)
    root = tmp_path / "data/coco_stuff164k"
    painted(root / "images/val2017/000000000139.jpg", seen)
    if not converted:
        stored = np.where(stored == 170, 181, stored)
    labelled(root / f"annotations/val2017/000000000139{'_labelTrainIds' if converted else ''}.png", stored)
    record = scored(tmp_path / "data", class_names("coco_stuff_171"), "--tasks", "coco-stuff-zs-seg")
    check(record["zeroshot_segmentation"], miou, 171)


def test_stuffthingmaps_become_171_classes(tmp_path):
    labelled(tmp_path / "x.png", np.arange(256).reshape(16, 16))
    table = read_stuff(tmp_path / "x.png").ravel()
    used = [number for number in range(182) if number not in UNUSED_IDS]
    assert table[used].tolist() == list(range(171))
    assert set(np.delete(table, used)) == {255}
    # mmsegmentation's convert script: 10 -> 10, 12 -> 11, 89 -> 79, 91 -> 80, 181 -> 170
    assert [table[number] for number in (10, 12, 89, 91, 181)] == [10, 11, 79, 80, 170]


def test_a_label_of_another_size_is_named(tmp_path, scored):
    seen, stored, _ = scene((0, 18), offset=0, zero=255)
    root = tmp_path / "data/cityscapes"
    painted(root / "leftImg8bit/val/ulm/ulm_000001_leftImg8bit.png", seen)
    labelled(root / "gtFine/val/ulm/ulm_000001_gtFine_labelTrainIds.png", stored[:, 1:])
    with pytest.raises(BadInput, match="the image is 32 x 24 but its label has shape"):
        scored(tmp_path / "data", class_names("cityscapes_19"))


# --- what there is


def test_list_shows_every_task_and_what_it_needs(tmp_path, capsys):
    (tmp_path / "coco").mkdir()
    (tmp_path / "coco/dataset_coco.json").write_text("{}")
    (tmp_path / "segmentation/mine").mkdir(parents=True)
    (tmp_path / "cityscapes/leftImg8bit/val").mkdir(parents=True)
    (tmp_path / "cityscapes/gtFine/val").mkdir(parents=True)
    assert main(["eval", "--list", "--root", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    there = {}
    for line in lines:
        cells = [cell.strip() for cell in line.strip("│").split("│")]
        if len(cells) == 3 and cells[1] in ("yes", "no"):
            there[cells[0]] = cells[1] == "yes"
    found = {f"{name}-{suffix}" for name in ("cityscapes", "mine") for suffix in ("zs-seg", "ov-seg")}
    assert {task for task, is_there in there.items() if is_there} == found
    assert {"imagenet-zs", "imagenet-fewshot", "cifar100-fewshot", "coco-retrieval", "ade150-zs-seg"} <= set(there)
    assert any("val2014 (missing)" in line for line in lines)
    assert not any("dataset_coco.json (missing)" in line for line in lines)
    assert any("`silc data prepare pc59` makes it from the release" in line for line in lines)


def test_a_run_or_list_is_needed(capsys):
    assert main(["eval"]) == 2
    assert "silc eval needs a run" in capsys.readouterr().err


def test_no_root():
    with pytest.raises(BadInput, match="no data to evaluate on: give --root"):
        discover("")


def test_nothing_under_the_root(tmp_path):
    with pytest.raises(BadInput, match="holds no data set; it needs official layouts"):
        discover(tmp_path)


def test_two_data_sets_of_one_name(tmp_path):
    for path in ("cityscapes/leftImg8bit/val", "cityscapes/gtFine/val", "segmentation/cityscapes"):
        (tmp_path / path).mkdir(parents=True)
    with pytest.raises(BadInput, match="are both called cityscapes; rename the folder"):
        discover(tmp_path)


def test_clip_benchmarks_shards_through_the_command_line(tmp_path, scored):
    import io
    import tarfile

    folder = tmp_path / "data/classification/mini/test"
    folder.mkdir(parents=True)
    with tarfile.open(folder / "0.tar", "w") as tar:
        for key, (index, label) in {"a": (0, 0), "b": (1, 1), "c": (1, 0)}.items():
            buffer = io.BytesIO()
            Image.new("RGB", (SIZE, SIZE), colour(index)).save(buffer, "PNG")
            for suffix, data in (("png", buffer.getvalue()), ("cls", str(label).encode())):
                info = tarfile.TarInfo(f"{key}.{suffix}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    (folder / "nshards.txt").write_text("1\n")
    (folder.parent / "classnames.txt").write_text("apple\nbaby\n")
    (folder.parent / "zeroshot_classification_templates.txt").write_text("the {c}\n")
    record = scored(tmp_path / "data", ["apple", "baby"], "--classification", "clip")["zeroshot_classification"]
    assert record["metrics"]["acc1"] == pytest.approx(2 / 3)
    assert record["protocol"]["templates"] == "the data set's 1"
