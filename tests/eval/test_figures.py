"""Segmentations side by side: what changed is what loops count, and the page is small and whole."""

from __future__ import annotations

import base64
import io
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from silc.cli import main
from silc.distributed import World
from silc.errors import BadInput
from silc.eval import figures
from silc.eval.config import EvalConfig
from silc.eval.datasets import SegmentationSet
from silc.eval.figures import Column, compared, write_page
from silc.eval.segment import ZeroShotSegmentation
from silc.evaluation import figures as figures_of_models
from silc.loading import load
from silc.page import webps
from silc.preprocess import Preprocess

CLASSES = ["dark", "red", "blue"]
SIZE = 24


class Channels:
    """A class for each channel; what a picture shows in `instead` is called `by` (both are classes)."""

    patch_size, device = 1, torch.device("cpu")
    preprocess = Preprocess(SIZE, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    record = {"readout": "channels"}  # noqa: RUF012
    rules = {"shorter": SIZE, "longer": None, "rounding": "squash", "window": SIZE, "stride": SIZE}  # noqa: RUF012

    def __init__(self, name: str, instead: int = 0, by: int = 0) -> None:
        self.name, self.swap = name, (instead, by)

    def classes(self, names, embed):
        return torch.arange(len(names))

    def maps(self, images, classes):
        maps = torch.stack([0.5 - images.amax(1), images[:, 0], images[:, 2]], dim=1)
        instead, by = self.swap
        if instead != by:
            maps[:, by] = torch.maximum(maps[:, by], maps[:, instead] + 1e-3 * (maps.argmax(1) == instead))
        return maps


@pytest.fixture
def data() -> SegmentationSet:
    """Four pictures of three classes, each with more red than the one before; a row of each is not scored."""
    truths = []
    for number in range(4):
        truth = np.zeros((SIZE, SIZE), np.uint8)
        truth[:, 6:12], truth[10 : 12 + 2 * number, 12:] = 2, 1
        truths.append(truth)
    pixels = np.array([[0, 0, 0], [255, 0, 0], [0, 0, 255]], np.uint8)
    images = [Image.fromarray(pixels[truth]) for truth in truths]
    for truth in truths:
        truth[0] = 255
        truth[1, :3] = 1  # which looks dark
    return SegmentationSet("three", CLASSES, [f"p{i}" for i in range(4)], images, truths)


def columns_of(data, *models: Channels, **fields) -> list[Column]:
    task = ZeroShotSegmentation("three-zs-seg", data, EvalConfig(batch_size=4, **fields))
    return [Column(model.name, task, task.scorer(model)) for model in models]


def test_changes_are_what_loops_count(data) -> None:
    columns = columns_of(data, Channels("plain"), Channels("reds are blue", 1, 2), Channels("the same"))
    found = compared(columns, most=2)
    assert [data.ids[one.index] for one in found.figures] == ["p3", "p2"]  # most of these differs
    assert found.images == 4
    expected, scored = [Counter(), Counter()], 0
    right = [Counter(), Counter()], [Counter(), Counter()]
    for index in range(4):
        image, truth = data.example(index)
        labels = [next(column.task.predictions(column.scorer, [index])).labels.numpy() for column in columns]
        for y in range(image.height):
            for x in range(image.width):
                if truth[y, x] == 255:
                    continue
                scored += 1
                for number, own in enumerate(labels[1:]):
                    pair = int(labels[0][y, x]), int(own[y, x])
                    if pair[0] != pair[1]:
                        expected[number][pair] += 1
                        right[0][number][pair] += truth[y, x] == pair[0]
                        right[1][number][pair] += truth[y, x] == pair[1]
    assert found.scored == scored
    for number in range(2):
        assert {(one.was, one.now): one.pixels for one in found.changes(number)} == expected[number]
        for one in found.changes(number):
            assert one.was_right == right[0][number][one.was, one.now]
            assert one.now_right == right[1][number][one.was, one.now]
    assert set(expected[0]) == {(1, 2)}
    assert not expected[1]


def test_pixels_of_which_a_column_is_not_sure_are_not_compared(data, monkeypatch) -> None:
    columns = columns_of(data, Channels("plain"), Channels("reds are blue", 1, 2))
    whole, predictions = compared(columns, most=2).scored, columns[1].task.predictions

    def unsure(scorer, indices):
        for one in predictions(scorer, indices):
            scored = one.scored.copy()
            scored[2:4] = 255
            yield one._replace(scored=scored)

    monkeypatch.setattr(columns[1].task, "predictions", unsure)
    assert compared(columns, most=2).scored == whole - 4 * 2 * SIZE


def test_images_that_are_named_are_shown_whether_they_differ_or_not(data) -> None:
    found = compared(columns_of(data, Channels("a"), Channels("b")), most=0, ids=["p2", "p0"])
    assert [data.ids[one.index] for one in found.figures] == ["p2", "p0"]
    assert found.images == 2
    assert not compared(columns_of(data, Channels("a"), Channels("b")), most=3).figures
    with pytest.raises(BadInput, match=r"no image 'p9' in three; did you mean 'p"):
        figures.check_ids(["p0", "p9"], [data])


def test_ranks_shares_together_are_the_whole(data, monkeypatch) -> None:
    columns = columns_of(data, Channels("plain"), Channels("reds are blue", 1, 2))
    task = columns[0].task
    task.config = replace(task.config, batch_size=2)  # an image at a time
    whole = compared(columns, most=2)
    monkeypatch.setattr(figures, "shared", lambda share, world: [share()])
    shares = []
    for rank in range(2):
        task.world = World(rank, 2)
        shares.append(compared(columns, most=2))
    assert [one.images for one in shares] == [2, 2]
    first, second = shares
    first.join(second, most=2)
    assert (first.images, first.scored, first.changes(0)) == (whole.images, whole.scored, whole.changes(0))
    assert [one.index for one in first.figures] == [one.index for one in whole.figures]


@pytest.mark.parametrize("photographs", [True, False])
def test_the_page_is_whole_and_small(data, tmp_path: Path, photographs: bool, monkeypatch) -> None:
    columns = columns_of(data, Channels("plain"), Channels("<b>", 1, 2), photographs=photographs)
    found = compared(columns, most=3)
    write_page(tmp_path / "page.html", found)
    page = (tmp_path / "page.html").read_text()
    assert "<b> against" not in page  # escaped
    assert "&lt;b&gt; against plain" in page
    assert not re.findall(r"""(?:src|href)=["'](?!data:)""", page)
    assert page.count("<section") == 3
    sources = re.findall(r'src="data:image/webp;base64,([^"]+)"', page)
    assert len(sources) == 3 * (3 + photographs)
    with Image.open(io.BytesIO(base64.b64decode(sources[0]))) as panel:
        assert min(panel.size) >= 100  # pixels of small images stay visible
    change = found.changes(0)[0]
    row = rf"<td>red</td><td>blue</td><td class=\"number\">{change.pixels:,}</td>"
    assert re.search(row, page)
    least = webps({one.index: [image for _, image in figures._panels(one, found)] for one in found.figures}, 0)
    monkeypatch.setattr(figures, "PICTURE_BYTES", 0.6 * sum(len(file) for own in least.values() for file in own))
    write_page(tmp_path / "small.html", found)
    small = (tmp_path / "small.html").read_text()
    assert 1 <= small.count("<section") < 3
    assert "left out to keep this page small" in small


def test_one_model_under_two_decoders_on_the_command_line(finished, root, tmp_path: Path, capsys) -> None:
    run_of = str(finished("clip"))
    out = tmp_path / "two.json"
    told = ["eval", run_of, "--root", str(root), "--tasks", "*-zs-seg", "--device", "cpu", "--out", str(out)]
    assert main([*told, "--decoder", "cosine,clearclip", "--figures", "2"]) == 0
    page = tmp_path / "two.figures-stripes-zs-seg.html"
    assert f"figures: {page}" in capsys.readouterr().out.replace("\n", "")
    assert "stripes-zs-seg: clearclip against cosine" in page.read_text()
    assert main([*told, "--decoder", "cosine,clearclip", "--figures-of", "1,nine"]) == 2
    assert "no image 'nine' in stripes" in capsys.readouterr().err
    assert out.exists()  # the scores are kept
    assert main([*told, "--weights", "student", "--figures", "2"]) == 2
    assert "figures compare two or more results" in capsys.readouterr().err
    assert main([*told, "--decoder", "cosine,scra", "--figures", "2", "--figures-of", "1"]) == 2
    assert "--figures-of names the images" in capsys.readouterr().err
    assert main([*told[:4], "--tasks", "*-zs", "--figures", "2"]) == 2


def test_columns_are_named_by_what_differs(finished, root) -> None:
    one, other = load(finished("clip")), load(finished("clip"))
    one.name, other.name = "first", "second"
    config = EvalConfig(root=str(root), tasks="*-zs-seg", segmentation="tcl,sclip")
    (found,) = figures_of_models([one, other], config, most=1)
    assert found.columns == ["first tcl", "first sclip", "second tcl", "second sclip"]
    assert found.changes(1) == []  # the same weights by the same protocol
    with pytest.raises(BadInput, match="here is one: one model, one kind of weights, one way of scoring"):
        figures_of_models(one, EvalConfig(root=str(root), tasks="*-zs-seg"), most=1)
