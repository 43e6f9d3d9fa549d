"""All tables of the paper that runs allow, as one page."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from silc.cli import main
from silc.errors import BadInput
from silc.eval.paper import paper
from silc.eval.tables import ModelRow, to_latex


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
    with pytest.raises(BadInput, match="was scored on a task of the paper's tables"):
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


def test_seeds_that_were_trained_for_another_time_have_a_note(tmp_path: Path) -> None:
    runs = [scored(tmp_path / f"tcl/seed-{seed}", ade150=0.1) for seed in range(3)]
    for run, examples in zip(runs, (2400, 2400, 5024), strict=True):
        records = json.loads((run / "scores.json").read_text())
        costs = {"examples_seen": examples, "train_flops": 1e12}
        (run / "scores.json").write_text(json.dumps([record | costs for record in records]))
    table = paper(runs).tables["ablation"]
    assert "tcl, teacher: its seeds saw from 2,400 to 5,024 examples" in table.notes
    own = next(row for row in table.rows if not row.published)
    assert "3,275" in table.cells(own)


def own_rows(*runs: Path) -> dict[str, ModelRow]:
    table = paper(runs).tables["main"]
    return {row.name: row for row in table.rows if not row.published}


def test_seeds_are_told_by_their_paths(tmp_path: Path) -> None:
    """The folder of a seed may be the last or not; what else has one label is no seed."""
    last = [scored(tmp_path / f"silc_c/seed-{seed}", ade150=0.1 * seed) for seed in (1, 2)]
    above = [scored(tmp_path / f"study/seed-{seed}/run", ade150=0.1 * seed) for seed in (1, 2)]
    assert list(own_rows(*last)) == ["silc_c, teacher (2 seeds)"]
    assert list(own_rows(*above)) == ["run, teacher (2 seeds)"]
    assert list(own_rows(*last, *above)) == ["silc_c, teacher (2 seeds)", "run, teacher (2 seeds)"]
    assert list(own_rows(last[0], last[0])) == ["silc_c, teacher"]
    files = [tmp_path / "a.json", tmp_path / "b.json"]
    for file in files:
        file.write_text((last[0] / "scores.json").read_text())
    rows = [row for row in paper(files).tables["main"].rows if not row.published]
    assert [row.name for row in rows] == ["mine, teacher"] * 2


def test_seeds_that_share_no_set_are_still_one_row(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A column is of the seeds that have it, and a note says how many; the figure is drawn."""
    one, two = scored(tmp_path / "x/seed-0", ade150=0.1, voc20=0.4), scored(tmp_path / "x/seed-1", voc20=0.2)
    three = scored(tmp_path / "y/seed-0", ade150=0.3), scored(tmp_path / "y/seed-1", voc20=0.5)
    table = paper([one, two, *three]).tables["zero-shot-segmentation"]
    rows = {row.name: table.cells(row) for row in table.rows if not row.published}
    assert rows["x, teacher (2 seeds)"][0] == "10.0"
    assert rows["x, teacher (2 seeds)"][3] == "30.0 ± 14.1"
    assert rows["y, teacher (2 seeds)"][:4] == ["30.0", "", "", "50.0"]
    assert "x, teacher: A-150 is of 1 of 2 seeds" in table.notes
    assert main(["eval", *map(str, (one, two, *three)), "--paper", "--out", str(tmp_path / "out")]) == 0
    assert "page: " in capsys.readouterr().out


def test_a_picture_that_is_none_is_told_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = scored(tmp_path / "run", ade150=0.1)
    (run / "segmentations.png").write_bytes(b"none")
    assert main(["eval", str(run), "--paper", "--out", str(tmp_path / "out")]) == 2
    assert "segmentations.png is no picture that can be read" in capsys.readouterr().err


def test_it_scores_first_where_a_root_is_given(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Else flags of an evaluation are refused, as nothing would read them."""
    run = scored(tmp_path / "run", ade150=0.1)
    assert main(["eval", str(run), "--paper", "--tasks", "*-zs"]) == 2
    assert "without --root, tables are made from existing scores" in capsys.readouterr().err
    assert main(["eval", str(run), "--paper", "--root", str(tmp_path / "none")]) == 2
