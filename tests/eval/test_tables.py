"""The paper's tables with rows of one's own."""

from __future__ import annotations

import json

import pytest

from silc.cli import main
from silc.eval.tables import NAMES, paper_table, to_html, to_markdown


def record(task, dataset, weights="teacher", protocol=None, **metrics):
    return {
        "model": "mine",
        "task": task,
        "dataset": dataset,
        "weights": weights,
        "metrics": {name.replace("_at_", "@"): value for name, value in metrics.items()},
        "protocol": protocol or {},
    }


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / "mine"
    folder.mkdir()
    records = [
        record("zeroshot_classification", "imagenet", acc1=0.5, acc5=0.8),
        record("zeroshot_classification", "imagenet", "student", acc1=0.4),
        record("zeroshot_segmentation", "ade150", miou=0.1234, protocol={"refined": "PAMR"}),
        record("zeroshot_segmentation", "ade150", "student", miou=0.1),
        record("zeroshot_retrieval", "coco", text_retrieval_recall_at_1=0.6, image_retrieval_recall_at_1=0.45),
        record("zeroshot_retrieval", "scenes", text_retrieval_recall_at_1=0.25, image_retrieval_recall_at_1=0.2),
    ]
    (folder / "scores.json").write_text(json.dumps(records))
    return folder


def scores(table, name):
    row = next(row for row in table.rows if row.name == name)
    return {column.label: score for column, score in zip(table.columns, row.scores, strict=True) if score is not None}


def test_a_run_beside_the_published_rows(run):
    table = paper_table("main", [run])
    assert [row.name for row in table.rows] == [
        *("CLIP (WebLI)", "SILC-C*", "SILC-C", "SigLIP", "SILC-S*", "SILC-S"),
        "mine, teacher",
    ]
    assert scores(table, "SILC-C*") == {
        **{"ImageNet 0-shot": 75.3, "CIFAR-100 0-shot": 71.0, "A-150": 17.2, "PC-59": 29.3, "Cityscapes": 25.1},
        **{"VOC-20": 73.5, "COCO-Stuff": 18.2, "COCO I2T R@1": 62.5, "COCO T2I R@1": 44.9},
    }
    assert scores(table, "mine, teacher") == {
        **{"ImageNet 0-shot": 50, "A-150": 12.34, "COCO I2T R@1": 60, "COCO T2I R@1": 45},
        **{"scenes I2T R@1": 25, "scenes T2I R@1": 20},
    }
    assert table.notes == ["mine, teacher: ade150 is refined (PAMR)"]


def test_teacher_and_student_are_both_shown_where_they_are_compared(run):
    table = paper_table("teacher-student", [run])
    assert [row.name for row in table.rows[2:]] == ["mine, teacher", "mine, student"]
    assert scores(table, "mine, student")["A-150"] == pytest.approx(10)
    assert scores(table, "SILC-C*, student") == {"A-150": 16.1, "COCO-Stuff": 17.3, "PC-59": 27.4}


@pytest.mark.parametrize("name", NAMES)
def test_every_table_has_a_source_and_full_published_rows(name):
    table = paper_table(name, [])
    assert "ECCV 2024" in table.source
    assert all(any(score is not None for score in row.scores) for row in table.rows)
    assert to_markdown(table).count("\n| ") == len(table.rows) + 2
    assert to_html(table).count("<tr") == len(table.rows) + 1


def test_through_the_command_line(run, capsys):
    assert main(["eval", str(run), "--table", "ablation"]) == 0
    printed = capsys.readouterr().out
    assert "| mine, teacher | 50.0 | 60.0 | 45.0 | 12.3 |" in printed
    assert "| *CLIP* | 71.7 | 59.1 | 42.9 | 11.8 | 12.9 | 20.1 |" in printed
    assert (run / "table-ablation.md").read_text() in printed
    assert "mine, teacher" in (run / "table-ablation.html").read_text()
    rows = json.loads((run / "table-ablation.json").read_text())["rows"]
    assert rows[-1]["scores"]["A-150"] == pytest.approx(12.34)
    assert rows[-1]["published"] is False


def test_a_run_without_scores(tmp_path, capsys):
    assert main(["eval", str(tmp_path), "--table", "main"]) == 2
    assert "has no scores yet; first `silc eval" in capsys.readouterr().err
    (tmp_path / "scores.json").write_text("[1]")
    assert main(["eval", str(tmp_path), "--table", "main"]) == 2
    assert "is no list of records" in capsys.readouterr().err


def test_one_command_scores_and_lays_out(small, tmp_path, capsys):
    """Two runs: each gets its own records, both stand in one report and one table."""
    from silc import run
    from silc.data.scenes import write_sets

    for seed in (0, 1):
        run.train(small("silc_c", duration="1 steps", out=tmp_path / f"seed-{seed}/run", seed=seed))
    write_sets(tmp_path / "sets", size=16, seed=0, num_retrieval=4, num_segmentation=2, per_class=1)
    runs = [str(tmp_path / f"seed-{seed}/run") for seed in (0, 1)]
    assert main(["eval", *runs, "--root", str(tmp_path / "sets"), "--device", "cpu", "--table", "teacher-student"]) == 0
    printed = capsys.readouterr().out
    for seed in (0, 1):
        assert f"| seed-{seed}/run, student |" in printed
        own = json.loads((tmp_path / f"seed-{seed}/run/scores.json").read_text())
        assert {record["model"] for record in own} == {f"seed-{seed}/run"}
    report = (tmp_path / "seed-0/run/report.html").read_text()
    assert "seed-0/run teacher" in report
    assert "seed-1/run teacher" in report
    rows = json.loads((tmp_path / "seed-0/run/table-teacher-student.json").read_text())["rows"]
    assert [row["name"] for row in rows if not row["published"]] == [
        f"seed-{seed}/run, {weights}" for seed in (0, 1) for weights in ("student", "teacher")
    ]
