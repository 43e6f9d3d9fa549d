"""All tables of the paper that runs allow, as one page."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from silc.cli import main
from silc.errors import BadInput
from silc.eval.paper import paper
from silc.eval.tables import to_latex


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
    assert set(found.left_out) == {"few-shot", "sizes", "open-vocabulary"}
    assert [column.label for column in found.tables["zero-shot-segmentation"].columns][-1] == "own mIoU"
    other = tmp_path / "other"
    scored(other, own=0.5)
    records = json.loads((other / "scores.json").read_text())
    (other / "scores.json").write_text(json.dumps([records[0] | {"task": "knn_classification"}]))
    with pytest.raises(BadInput, match="was scored on a task that the paper's tables have"):
        paper([other])
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
    assert "Not scored, so not here: few-shot, sizes, open-vocabulary" in page


def test_seeds_are_one_row_of_means(tmp_path: Path) -> None:
    runs = [scored(tmp_path / f"tcl/seed-{seed}", ade150=miou) for seed, miou in enumerate((0.1, 0.2, 0.4))]
    runs.append(scored(tmp_path / "clip/seed-0", ade150=0.3, voc20=0.5))
    own = [row for row in paper(runs).tables["zero-shot-segmentation"].rows if not row.published]
    assert [row.name for row in own] == ["tcl, teacher (3 seeds)", "clip, teacher"]
    assert own[0].scores[0] == pytest.approx(70 / 3)
    assert own[0].spread[0] == pytest.approx(15.2753, abs=1e-4)
    table = paper(runs).tables["zero-shot-segmentation"]
    assert table.cells(own[0])[:4] == ["23.3 ± 15.3", "", "", ""]
    assert r"23.3 $\pm$ 15.3" in to_latex(table)


def test_it_scores_first_where_a_root_is_given(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Else flags of an evaluation are refused, as nothing would read them."""
    run = scored(tmp_path / "run", ade150=0.1)
    assert main(["eval", str(run), "--paper", "--tasks", "*-zs"]) == 2
    assert "without --root tables are made of the scores there are" in capsys.readouterr().err
    assert main(["eval", str(run), "--paper", "--root", str(tmp_path / "none")]) == 2
