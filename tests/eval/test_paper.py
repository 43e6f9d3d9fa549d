"""All tables of the paper that runs allow, as one page."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from silc.cli import main
from silc.errors import BadInput
from silc.eval.paper import paper


def scored(folder: Path, **by_dataset: float) -> Path:
    folder.mkdir(parents=True)
    records = [
        {
            **{"model": "mine", "task": "zeroshot_segmentation", "dataset": name, "weights": "teacher"},
            **{"metrics": {"miou": value}, "protocol": {"refined": "PAMR"}},
        }
        for name, value in by_dataset.items()
    ]
    (folder / "scores.json").write_text(json.dumps(records))
    return folder


def test_tables_that_no_run_was_scored_for_are_named(tmp_path: Path) -> None:
    found = paper([scored(tmp_path / "run", ade150=0.1, voc20=0.3, own=0.5)])
    assert list(found.tables) == ["main", "teacher-student", "ablation", "zero-shot-segmentation"]
    assert set(found.left_out) >= {"few-shot", "sizes"}
    with pytest.raises(BadInput, match="was scored on a set that the paper's tables have"):
        paper([scored(tmp_path / "other", own=0.5)])
    with pytest.raises(BadInput, match="has no scores yet"):
        paper([tmp_path / "none"])


def test_the_page_and_each_table_are_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, two = scored(tmp_path / "a<b", ade150=0.1, voc20=0.3), scored(tmp_path / "two", ade150=0.2)
    Image.new("RGB", (20, 10), "red").save(one / "segmentations.png")
    out = tmp_path / "out"
    assert main(["eval", str(one), str(two), "--paper", "--out", str(out)]) == 0
    told = capsys.readouterr().out
    assert f"page: {out / 'paper.html'}" in told
    for name in ("main", "teacher-student", "ablation", "zero-shot-segmentation"):
        for suffix in ("md", "html", "json", "tex"):
            assert (out / f"table-{name}.{suffix}").is_file(), name
    page = (out / "paper.html").read_text()
    assert page.count("<svg") == page.count("<table>") == 4
    assert page.count("data:image/webp") == 1
    assert "a&lt;b, teacher" in page
    assert "a<b" not in page
    assert "refined PAMR, not off" in page
    assert "Not scored, so not here: few-shot, sizes" in page


def test_it_scores_first_where_a_root_is_given(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Else flags of an evaluation are refused, as nothing would read them."""
    run = scored(tmp_path / "run", ade150=0.1)
    assert main(["eval", str(run), "--paper", "--tasks", "*-zs"]) == 2
    assert "without --root tables are made of the scores there are" in capsys.readouterr().err
    assert main(["eval", str(run), "--paper", "--root", str(tmp_path / "none")]) == 2
