"""Twenty photographs are learnt by heart, from the command line and from towers of random weights."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

import silc
from scripts.detection import twenty
from silc.cli import main
from silc.config import Config
from silc.pretraining import run


@pytest.mark.slow  # two minutes of one core
def test_twenty_photographs_are_learnt(small: Callable[..., Config], silc_data: Path, tmp_path: Path) -> None:
    """The first twenty training images with one to five objects: 52 boxes of 26 names, 16 of them small."""
    pytest.importorskip("faster_coco_eval")
    place = tmp_path / "detection" / "twenty"
    twenty(silc_data / "detection" / "coco_boxes", place)
    values = json.loads((place / "annotations" / "instances_train.json").read_text())
    boxes = values["annotations"]
    assert (len(values["images"]), len(boxes), len({one["category_id"] for one in boxes})) == (20, 52, 26)
    config = small("clip", tmp_path / "base", duration="1 steps")
    image = replace(config.model.image, size=128, patch=16, width=128, depth=4, heads=4, mlp=512)
    model = replace(config.model, image=image, embed_dim=128, text=replace(config.model.text, width=128, heads=4))
    base = run.train(replace(config, model=model))
    asked = ["train", "detect", "--init", str(base), "--data.train", str(place), "--out", str(tmp_path / "run")]
    asked += ["--data.mosaics", "1.0", "--data.crops", "1.0", "--data.no-flip", "--data.negatives", "5"]
    asked += ["--data.templates", "plain", "--data.workers", "0", "--train.duration", "400 steps"]
    asked += ["--train.batch-size", "20", "--train.optim.lr", "1e-3", "--train.optim.warmup", "30 steps"]
    asked += ["--train.optim.freeze", "text", "--loss.l1", "5", "--loss.giou", "2", "--train.device", "cpu"]
    assert main([*asked, "--train.precision", "float32", "--train.save-every", "400 steps"]) == 0
    (scored,) = silc.evaluate(
        tmp_path / "run", root=str(tmp_path), tasks="twenty-detection", templates="plain", device="cpu"
    )
    assert scored.record.metrics["ap50"] > 0.8
    assert scored.record.chance["ap50"] < 0.2
