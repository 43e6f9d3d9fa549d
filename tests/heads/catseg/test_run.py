"""CAT-Seg from the command line, on a miniature of COCO-Stuff: trained, resumed, over ranks, scored, used, refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import silc
from silc import checkpoint
from silc.cli import main
from silc.heads.catseg.predictor import CatSegModel
from silc.rundir import newest_checkpoint
from tests import ranks
from tests.heads.catseg.conftest import flags

COCO = "coco-stuff-ov-seg"


def weights(run: Path) -> dict[str, Tensor]:
    return checkpoint.read(newest_checkpoint(run), only=("model",)).state_dicts["model"]


def moments(run: Path) -> dict[str, Tensor]:
    return checkpoint.read(newest_checkpoint(run), only=("optimizer",)).state_dicts["optimizer"]


def command(finished: Callable[..., Path], coco_stuff: Path, out: Path, **more: object) -> list[str]:
    init = ["train", "catseg", "--init", str(finished("silc_c")), "--data.train", str(coco_stuff)]
    return [*init, "--out", str(out), *flags(**more)]


def test_a_run_that_was_stopped_goes_on_to_the_bit(
    trained: Path, finished: Callable[..., Path], coco_stuff: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = command(finished, coco_stuff, tmp_path / "again")
    assert main(asked) == 0
    assert "weights are trained (queries and values)" in capsys.readouterr().out
    shutil.rmtree(newest_checkpoint(tmp_path / "again"))
    (tmp_path / "again" / "checkpoints" / "latest").unlink()
    assert main([*asked, "--resume", "auto"]) == 0
    for part in (weights, moments):
        one, other = part(trained), part(tmp_path / "again")
        assert one.keys() == other.keys()
        assert all(torch.equal(one[name], other[name]) for name in one)
    assert any(name.endswith("weight.0.v") for name in weights(trained))


ALONG = {
    **{"train.eval_every": "4 steps", "eval.tasks": "coloured-ov-seg", "train.optim.lr": 3e-3, "tower_lr": 0.1},
    **{"train.duration": "8 steps", "data.colours": False},
}
"""Of a run that is scored while it trains, at a rate at which something is learnt."""


def watched_command(finished: Callable[..., Path], coloured: Path, out: Path, **more: object) -> list[str]:
    return command(finished, coloured, out, **ALONG, **{"eval.root": str(coloured.parents[1])}, **more)


def scores_of(run: Path) -> list[dict[str, float]]:
    """Of the task, in order."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    found = [{name: x for name, x in line.items() if name.startswith("eval/catseg/coloured-ov-seg/")} for line in lines]
    return [scores for scores in found if scores]


@pytest.fixture(scope="module")
def watched(finished: Callable[..., Path], coloured: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was scored before, along and after; look, do not write."""
    out = tmp_path_factory.mktemp("watched") / "run"
    assert main(watched_command(finished, coloured, out)) == 0
    return out


@pytest.mark.parametrize("sharding", [pytest.param("none", marks=pytest.mark.slow), "full"])
def test_two_ranks_equal_one(
    sharding: str, watched: Path, finished: Callable[..., Path], coloured: Path, tmp_path: Path
) -> None:
    """In what they learn, and in the scores of what they hold, whole or in shares."""
    ranks.silc(*watched_command(finished, coloured, tmp_path / "two", **{"train.sharding": sharding}))
    one, two = weights(watched), weights(tmp_path / "two")
    assert one.keys() == two.keys()
    for name in one:
        assert torch.allclose(one[name], two[name], atol=1e-4), name
    one_rank, two_ranks = scores_of(watched), scores_of(tmp_path / "two")
    assert two_ranks[0] == pytest.approx(one_rank[0], abs=1e-9)  # of the same weights, pixel by pixel
    for ours, theirs in zip(one_rank, two_ranks, strict=True):
        assert ours == pytest.approx(theirs, abs=2e-3)


def test_it_is_scored_loaded_and_used(
    trained: Path, finished: Callable[..., Path], coco_stuff: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "scores.json"
    asked = ["eval", str(trained), str(finished("silc_c")), "--root", str(coco_stuff.parent), "--out", str(out)]
    assert main([*asked, "--tasks", COCO, "--device", "cpu", "--table", "open-vocabulary"]) == 0
    assert "| *SILC B/16* | 13.4 | 22.0 | 36.6 | 61.2 | 95.9 | 80.4 |" in capsys.readouterr().out
    records = {record["weights"]: record for record in json.loads(out.read_text())}
    protocol = records["catseg"]["protocol"]
    assert (protocol["decoder"], protocol["window"], protocol["stride"]) == ("catseg", 32, 21)
    assert {record["protocol"]["absent_classes"] for record in records.values()} == {"detectron2"}
    model = silc.load(trained, device="cpu")
    assert isinstance(model, CatSegModel)
    image, names = Image.new("RGB", (31, 40), "red"), ["grass, lawn", "sky"]
    found = model.segment(image, names)
    assert found.labels.shape == (40, 31)
    assert found.scores.shape == (2, 53, 53)
    assert ((found.scores > 0) & (found.scores < 1)).all()
    same = model.segment(image, ["grass", "sky"])  # the first of several synonyms is taken
    assert torch.equal(same.scores, found.scores)
    assert model.to(dtype="bfloat16").segment(image, names).labels.shape == (40, 31)
    assert protocol["ensemble"] == "each prompt is a channel"
    for given in (
        {"templates": "clip7"},
        {"window": 16},
        {"refine": "pamr"},
        {"ensemble": "normalize, mean, normalize"},
        {"segmentation": "sclip"},
    ):
        with pytest.raises(silc.BadInput, match=r"of its own|together"):
            silc.evaluate(model, root=str(coco_stuff.parent), tasks=COCO, **given)


def test_scores_along_training_are_of_the_weights_and_texts_there_are(watched: Path, coloured: Path) -> None:
    """The last ones equal those of the run as it is loaded; those before it learnt were others."""
    root = str(coloured.parents[1])
    (scored,) = silc.evaluate(watched, root=root, tasks="coloured-ov-seg", device="cpu")
    first, *_, last = scores_of(watched)
    task = "eval/catseg/coloured-ov-seg"
    assert last == pytest.approx({f"{task}/{name}": value for name, value in scored.record.metrics.items()}, abs=1e-9)
    assert last[f"{task}/pixel_acc"] > first[f"{task}/pixel_acc"] + 0.05


def test_in_bfloat16_it_learns_alike(
    trained: Path, finished: Callable[..., Path], coco_stuff: Path, tmp_path: Path
) -> None:
    assert main(command(finished, coco_stuff, tmp_path / "run", **{"train.precision": "bf16"})) == 0
    half, full = (
        json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])["loss/bce"]
        for run in (tmp_path / "run", trained)
    )
    assert half == pytest.approx(full, rel=0.02)
    assert half != full


@pytest.mark.parametrize(
    ("given", "said", "learnt"),
    [
        ({"train.optim.lora": 2}, "(rank 2 beside their matrices)", ".down"),
        ({"train.optim.freeze": ("image", "text")}, "the towers are not trained; windows are 4 x 4 of 4 x 4", ""),
        ({"crop": 40, "aggregator.window": 4}, "windows are 1 x 1 of 5 x 5 patches", ".v"),
        ({"train.optim.freeze": ("image",), "train.precision": "bf16"}, "(queries and values)", "text."),
        ({"train.micro_batch": 1, "data.workers": 1, "templates": "scene5"}, "(queries and values)", ".v"),
    ],
    ids=["lora", "frozen", "a prime grid", "bf16 and the text tower alone", "micro-batches, a worker, several prompts"],
)
def test_switches(
    given: dict[str, object],
    said: str,
    learnt: str,
    finished: Callable[..., Path],
    coco_stuff: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """What learns beside the head is saved, and loaded into towers that others read."""
    assert main(command(finished, coco_stuff, tmp_path / "run", **{"train.duration": "2 steps", **given})) == 0
    assert said in capsys.readouterr().out
    of_towers = [name for name in weights(tmp_path / "run") if not name.startswith("head.")]
    assert bool(of_towers) == bool(learnt)
    assert not learnt or any(learnt in name for name in of_towers)
    model = silc.load(tmp_path / "run", device="cpu")
    assert model.segment(Image.new("RGB", (40, 40), "red"), ["grass", "sky"]).labels.shape == (40, 40)


@pytest.mark.parametrize(("height", "width", "least"), [(53, 53, 1.0), (40, 90, 0.95)])
def test_a_head_that_reads_labels_scores_everything(
    height: int, width: int, least: float, trained: Path, tmp_path: Path
) -> None:
    """Its logits are of the class that a pixel's colour names, whatever the windows: canvas, fusion, metric add up.

    An image of the canvas's size loses nothing, one of another shape the borders of its classes.
    """
    root, colours = tmp_path / "segmentation" / "told", np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255]], np.uint8)
    for part in ("images", "labels"):
        (root / part).mkdir(parents=True)
    (root / "classes.txt").write_text("red\ngreen\nblue\n")
    for number in range(2):
        labels = np.zeros((height, width), np.uint8)
        labels[:, 20:], labels[30:, 10:] = 1 + number, 2 - number
        Image.fromarray(labels).save(root / "labels" / f"{number}.png")
        Image.fromarray(colours[labels]).save(root / "images" / f"{number}.png")

    class Told(torch.nn.Module):
        readout = "labels"

        def embedded(self, ids: Tensor) -> Tensor:
            return torch.eye(3)[:, None]

        def logits(self, pixels: Tensor, texts: Tensor) -> Tensor:
            return 40 * pixels

    model = silc.load(trained, device="cpu")
    told = replace(model, catseg=Told())
    (scored,) = silc.evaluate(told, root=str(tmp_path), tasks="told-ov-seg")
    assert all(least <= score <= 1 for score in scored.record.metrics.values())


def test_a_head_without_training_is_at_chance(watched: Path) -> None:
    """Before the first step: three classes, each a third of the pixels."""
    first, *_ = scores_of(watched)
    assert 0.1 < first["eval/catseg/coloured-ov-seg/pixel_acc"] < 0.5


def bad_set(root: Path, fault: str) -> Path:
    """A folder of two images with label maps, one of them at fault."""
    for part in ("images", "labels"):
        (root / "train" / part).mkdir(parents=True)
    (root / "classes.txt").write_text("red\ngreen\n")
    for number in range(2):
        pixels, labels = np.full((40, 40, 3), 10 * number, np.uint8), np.zeros((40, 40), np.uint8)
        if number and fault == "outside":
            labels[0, 0] = 2
        if number and fault == "size":
            labels = labels[:20]
        Image.fromarray(pixels).save(root / "train" / "images" / f"{number}.png")
        if not (fault == "no label" and number):
            Image.fromarray(labels).save(root / "train" / "labels" / f"{number}.png")
    if fault == "shared":
        shutil.copytree(root / "train" / "images", root / "images")
        shutil.copytree(root / "train" / "labels", root / "labels")
    return root


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("outside", "label 2 is outside its 2 classes (0 to 1, 255 is ignored)"),
        ("size", "the image is 40 x 40 but its label has shape [20, 40]"),
        ("no label", "1.png has no label; add"),
        ("shared", "is a training image, and"),
    ],
)
def test_label_maps_at_fault_are_told_in_one_line(
    fault: str, said: str, finished: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = bad_set(tmp_path / "set", fault)
    assert main(command(finished, data, tmp_path / "out")) == 2
    told = capsys.readouterr().err.strip()
    assert said in told
    assert "\n" not in told


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"layers": (0, 7)}, "layers names block 7 of the image tower, which has blocks 0 to 0"),
        ({"crop": 36}, "crop 36 is no multiple of the patch of 8 pixels; use 32 or 40"),
        ({"readout": "typo"}, "no dense readout 'typo'; there are:"),
        ({"data.train": "nowhere"}, "data.train nowhere is no folder"),
        ({"train.duration": "0.1 epochs"}, "is less than one step of 2 images"),
        ({"templates": "typo"}, "no prompt set 'typo'"),
    ],
)
def test_settings_at_fault_are_told_in_one_line(
    given: dict[str, object],
    said: str,
    finished: Callable[..., Path],
    coco_stuff: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    asked = command(finished, coco_stuff, tmp_path / "out", **given)
    if "data.train" in given:
        asked.remove("--data.train"), asked.remove(str(coco_stuff))
    assert main(asked) == 2
    told = capsys.readouterr().err.strip()
    assert said in told
    assert "\n" not in told


def test_a_head_is_not_trained_on_a_head(
    trained: Path, coco_stuff: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["train", "catseg", "--init", str(trained), "--data.train", str(coco_stuff), "--out", str(tmp_path / "out")]
    assert main([*asked, *flags()]) == 2
    assert "is of a run of kind 'catseg', not of kind 'pretrain'" in capsys.readouterr().err


def test_a_run_goes_on_and_is_loaded_on_its_own_model_alone(
    trained: Path, finished: Callable[..., Path], tmp_path: Path
) -> None:
    shutil.copytree(trained, tmp_path / "run")
    config = tmp_path / "run" / "config.yaml"
    config.write_text(config.read_text().replace(str(finished("silc_c")), str(finished("clip"))))
    with pytest.raises(silc.BadInput, match="another model than the one that this head was trained on"):
        silc.load(tmp_path / "run", device="cpu")
