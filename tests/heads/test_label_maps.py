"""Images with label maps: where they lie, what is broken, what is shared."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from silc.data.pairs import BadSample
from silc.errors import BadInput
from silc.heads.label_maps import LabelledImages, opened, training_images


def write(folder: Path, names: str, value: int = 0) -> None:
    """Images with label maps, each of another colour."""
    for kind in ("images", "labels"):
        (folder / kind).mkdir(parents=True)
    for number, name in enumerate(names):
        Image.new("RGB", (8, 6), (40 * number, value, 0)).save(folder / "images" / f"{name}.png")
        Image.fromarray(np.full((6, 8), number % 2, np.uint8)).save(folder / "labels" / f"{name}.png")


def test_an_authors_set_is_known_by_its_folders(tmp_path: Path) -> None:
    stuff = tmp_path / "any name"
    for split in ("train2017", "val2017"):
        for kind in ("images", "annotations"):
            (stuff / kind / split).mkdir(parents=True)
        Image.new("RGB", (8, 6), (split[0] == "t" and "red") or "blue").save(stuff / "images" / split / f"{split}.jpg")
        Image.fromarray(np.full((6, 8), 181, np.uint8)).save(stuff / "annotations" / split / f"{split}.png")
    train = training_images(str(stuff), "train", "ignore")
    with pytest.raises(BadInput, match=r"with a training part of its own; leave out data\.split"):
        training_images(str(stuff), "val2017", "ignore")
    assert (train.name, list(train.ids), len(train.classes)) == ("coco-stuff", ["train2017"], 171)
    assert LabelledImages(train)[0].truth.max() == 170  # of 182 numbers eleven are unused
    ade = tmp_path / "ADEChallengeData2016"
    for kind in ("images", "annotations"):
        (ade / kind / "training").mkdir(parents=True)
    Image.new("RGB", (8, 6)).save(ade / "images/training/a.jpg")
    Image.fromarray(np.ones((6, 8), np.uint8)).save(ade / "annotations/training/a.png")
    assert opened(str(ade)).data.name == "ade150"


def test_a_folder_of_ones_own_has_its_images_in_a_split_or_at_its_top(tmp_path: Path) -> None:
    for place in ("split", "top"):
        (tmp_path / place).mkdir()
        (tmp_path / place / "classes.txt").write_text("a\nb\n")
    write(tmp_path / "split" / "fit", "abc")
    write(tmp_path / "top", "ab")
    assert len(training_images(str(tmp_path / "split"), "fit", "ignore")) == 3
    assert len(training_images(str(tmp_path / "top"), "train", "ignore")) == 2
    with pytest.raises(BadInput, match="holds no training images with label maps"):
        opened(str(tmp_path))


def test_a_split_that_is_not_there_is_no_other_images(tmp_path: Path) -> None:
    """Above all not those at the top, which are the test part of a folder with splits."""
    (tmp_path / "classes.txt").write_text("a\nb\n")
    write(tmp_path, "ab")
    with pytest.raises(BadInput, match=r"has no fit/images, .* it has no splits; leave out data\.split"):
        training_images(str(tmp_path), "fit", "ignore")
    write(tmp_path / "fit", "cd", value=9)
    write(tmp_path / "more", "ef", value=8)
    for split in ("trian", "train"):
        with pytest.raises(BadInput, match=f"the images of split '{split}'; its splits are fit, more"):
            training_images(str(tmp_path), split, "ignore")
    assert list(training_images(str(tmp_path), "fit", "ignore").ids) == ["c", "d"]


def test_one_image_in_two_splits_is_refused_under_any_name(tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_text("a\nb\n")
    write(tmp_path / "train", "abc")
    write(tmp_path, "xy", value=9)
    assert len(training_images(str(tmp_path), "train", "ignore")) == 3
    shutil.copy(tmp_path / "train/images/b.png", tmp_path / "images/y.png")
    with pytest.raises(
        BadInput, match=r"train/images/b.png is a training image, and .*images/y.png of .* is the same image"
    ):
        training_images(str(tmp_path), "train", "ignore")


def test_an_image_that_cannot_be_decoded_is_a_bad_sample(tmp_path: Path) -> None:
    """The loader takes another; a label map that is none of its image ends the run."""
    (tmp_path / "classes.txt").write_text("a\nb\n")
    write(tmp_path / "train", "abc")
    (tmp_path / "train/images/a.png").write_bytes(b"no image")
    Image.fromarray(np.full((6, 8), 7, np.uint8)).save(tmp_path / "train/labels/b.png")
    images = LabelledImages(training_images(str(tmp_path), "train", "ignore"))
    with pytest.raises(BadSample, match="no_image"):
        images[0]
    with pytest.raises(BadInput, match="label 7 is outside its 2 classes"):
        images[1]
    assert images[2].truth.shape == (6, 8)
