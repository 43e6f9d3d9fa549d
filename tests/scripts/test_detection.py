"""The script of detection: names that are moved on, the twenty photographs, its tables, and that it runs."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from scripts import detection
from scripts.spread import Scores
from silc.config import Config
from silc.pretraining import run


def test_moved_names_are_no_boxs_own(tmp_path: Path) -> None:
    source = tmp_path / "a"
    (source / "annotations").mkdir(parents=True)
    (source / "val").mkdir()
    values = {"categories": [{"id": 3, "name": "wug"}, {"id": 5, "name": "toma"}, {"id": 9, "name": "fep"}]}
    (source / "annotations" / "instances_val.json").write_text(json.dumps(values))
    detection.move_names(source, tmp_path / "b")
    moved = json.loads((tmp_path / "b" / "annotations" / "instances_val.json").read_text())["categories"]
    assert [(one["id"], one["name"]) for one in moved] == [(3, "toma"), (5, "fep"), (9, "wug")]


def test_the_worst_seed_beside_the_better_of_both() -> None:
    rows = {
        "unseen pairs": Scores([40.0, 30.0]),
        "unseen pairs, a centre box": Scores([1.0, 1.0]),
        "unseen pairs, names moved on": Scores([0.5, 6.0]),
    }
    assert "5.0 times" in detection.margin(rows)
    assert detection.table(rows)[2] == "| unseen pairs | 35.0 ± 7.1 | 40.0, 30.0 |"


@pytest.mark.slow
def test_it_runs_on_objects(
    small: Callable[..., Config], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("faster_coco_eval")
    config = small("clip", tmp_path / "towers", duration="1 steps")
    run.train(replace(config, data=replace(config.data, source="objects")))
    monkeypatch.setattr(
        sys, "argv", ["detection", str(tmp_path / "out"), "--quick", "--towers", str(tmp_path / "towers")]
    )
    detection.main()
    assert "| unseen pairs, names moved on | " in capsys.readouterr().out
    assert (tmp_path / "out" / "table.md").is_file()
