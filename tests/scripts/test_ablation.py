"""Mean, spread, and what may be said of a difference."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[2] / "scripts"


@pytest.fixture
def ablation(monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPTS))
    return importlib.import_module("ablation")


COST = {"clip": (25_000, 1e14), "silc_c": (25_000, 3.6e14), "clip-flops": (90_000, 3.6e14)}
"""Examples and training FLOPs of the rows that tell them."""


def scored(out, name, weights, values):
    for seed, value in enumerate(values):
        file = out / name / f"seed-{seed}" / "scores.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        records = json.loads(file.read_text()) if file.is_file() else []
        record = {"dataset": "scenes", "weights": weights, "metrics": {"miou": value}, "chance": {"miou": 0.02}}
        record |= dict(zip(("examples_seen", "train_flops"), COST.get(name, (None, None)), strict=True))
        file.write_text(json.dumps([*records, record]))


@pytest.fixture
def out(tmp_path):
    scored(tmp_path, "clip", "student", [0.10, 0.12, 0.14])
    scored(tmp_path, "clip_views", "student", [0.13, 0.15, 0.17])
    scored(tmp_path, "clip_views_ema", "student", [0.10, 0.10, 0.10])
    scored(tmp_path, "clip_views_ema", "teacher", [0.20, 0.21, 0.22])
    scored(tmp_path, "silc_c", "teacher", [0.30])
    (tmp_path / "silc_c/seed-0/config.yaml").write_text("objective: {weight: 0.1}")
    return tmp_path


def test_mean_spread_and_differences(ablation, out):
    folders = {name: ablation._folder(out, name) for name in [*ablation.ROWS, *ablation.WEIGHTS]}
    scores, chance = ablation.collect(folders, ablation.COLUMNS)
    assert scores["clip", "student", "mIoU"].mean == pytest.approx(12)
    assert scores["clip", "student", "mIoU"].spread == pytest.approx(2)
    assert chance == {"mIoU": 2}
    lines = ablation.table(ablation.ROWS, ablation.TITLES, scores, chance)
    assert lines[2] == "| CLIP | student | 3 |  |  |  |  | 12.0 ± 2.0 |"
    said = ablation.differences(ablation.ROWS, ablation.BEFORE, ablation.TITLES, scores)
    assert said[0].endswith("against CLIP: mIoU +3.0 (inside the spread).")
    assert said[1].endswith("student, against + additional views: mIoU -5.0 (outside the spread).")
    assert said[3].endswith("against + EMA teacher: mIoU +9.0 (one seed says nothing).")
    assert said[2].endswith("teacher, against + additional views: mIoU +6.0 (outside the spread).")


def test_the_section_is_written_once_and_the_rest_is_kept(ablation, out, tmp_path, monkeypatch):
    docs = tmp_path / "docs"
    docs.mkdir()
    (docs / "results.md").write_text("# Results\n\nBefore.\n")
    monkeypatch.setattr(sys, "argv", ["ablation.py", "table", str(out), "--docs", str(docs)])
    ablation.main()
    first = (docs / "results.md").read_text()
    (docs / "results.md").write_text(first + "After.\n")
    ablation.main()
    assert (docs / "results.md").read_text() == first + "After.\n"
    assert first.startswith("# Results\n\nBefore.\n")
    assert "| w = 0.1 | teacher | 1 |" in first
    assert (docs / "ablation.svg").stat().st_size > 5000
    assert (out / "ablation.md").is_file()


def test_rows_at_equal_training_flops_stand_beside_those_at_equal_examples(ablation, out, monkeypatch, capsys):
    scored(out, "clip-flops", "student", [0.15, 0.16, 0.17])
    scored(out, "silc_c", "teacher", [0.20, 0.21, 0.22])
    monkeypatch.setattr(sys, "argv", ["ablation.py", "table", str(out)])
    ablation.main()
    page = capsys.readouterr().out
    assert "| CLIP | student | 3 |  |  |  |  | 12.0 ± 2.0 | 25,000 | 1.00e+14 |" in page
    equal = page.split("At equal training FLOPs")[1].split("The weight w")[0]
    assert "| CLIP, longer | student | 3 |  |  |  |  | 16.0 ± 1.0 | 90,000 | 3.60e+14 |" in equal
    assert "| + self-distillation (SILC-C) | teacher | 4 |" in equal
    assert "(SILC-C), teacher, against CLIP, longer: mIoU +7.2 (outside the spread)." in equal
    assert "SigLIP" not in equal
    assert (out / "ablation-flops.svg").stat().st_size > 5000


@pytest.mark.parametrize("size", ["tiny", pytest.param("s16", marks=pytest.mark.slow)])
def test_longer_runs_take_the_flops_of_what_they_are_set_against(ablation, size):
    from silc import recipes
    from silc.pretraining.build import flops_per_example

    found = ablation.equal_flops(size, "25k examples")
    assert [(name, row) for name, row, _ in found] == [
        ("clip-flops", "clip"),
        ("clip_views-flops", "clip_views"),
        ("siglip-flops", "siglip"),
    ]
    for name, row, examples in found:
        cost = {one: flops_per_example(recipes.get(f"{one}-{size}"), 512, 1) for one in ablation.EQUAL[name]}
        assert examples * cost[row] == pytest.approx(25_000 * cost[ablation.EQUAL[name][1]], rel=1e-3)
    assert 25_000 < found[1][2] < found[0][2]


def test_nothing_scored(ablation, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["ablation.py", "table", str(tmp_path)])
    with pytest.raises(SystemExit, match="holds no scored run"):
        ablation.main()
