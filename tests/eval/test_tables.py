"""The paper's tables with rows of one's own."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import get_args, get_type_hints

import numpy as np
import pytest
import torch
from markupsafe import escape
from PIL import Image

from silc.cli import main
from silc.commands.eval import EvalCommand
from silc.eval import suite, tables, tasks
from silc.eval.config import EvalConfig
from silc.eval.datasets import SegmentationSet
from silc.eval.prompts import class_names
from silc.eval.segment import OpenVocabularySegmentation
from silc.eval.tables import NAMES, paper_table, to_html, to_json, to_latex, to_markdown
from silc.heads.catseg.predictor import CatSegModel
from silc.preprocess import Preprocess
from tests.eval.conftest import FOUR


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
    assert table.notes == ["mine, teacher: ade150: refined PAMR, not off"]


def write(folder, records):
    folder.mkdir()
    (folder / "scores.json").write_text(json.dumps(records))
    return folder


def test_every_difference_from_a_rows_protocol_is_a_note(tmp_path):
    """What a model of 256 px is scored by, as its evaluators record it, beside rows of 448 px."""
    theirs = json.loads(Path(tables.__file__).with_name("published.json").read_text())["protocols"]
    segmentation = theirs["zeroshot_segmentation"]
    own = {**segmentation, "readout": "map_value", "window": 256, "stride": 128, "mix": "0.7 own + 0.3 x"}
    run = write(
        tmp_path / "mine",
        [
            record("zeroshot_segmentation", "ade150", miou=0.1, protocol=own),
            record("zeroshot_segmentation", "pc59", miou=0.1, protocol=own),
            record("zeroshot_segmentation", "voc20", miou=0.1, protocol=segmentation),
            record("zeroshot_segmentation", "scenes", miou=0.1, protocol=own),
            record("zeroshot_classification", "imagenet", acc1=0.1, protocol=theirs["zeroshot_classification"]),
            record("zeroshot_retrieval", "coco", protocol={"max_captions": 5, "resize": "squash, bilinear"}, x=0.1),
        ],
    )
    table = paper_table("main", [run])
    assert table.notes == [
        "mine, teacher: ade150, pc59: window 256, not 448; stride 128, not 224; mix 0.7 own + 0.3 x, not off",
        "mine, teacher: coco: max_captions 5, not all; resize 'squash, bilinear', not 'squash, tf_bilinear'",
    ]
    for note in table.notes:
        assert f"* {note}\n" in to_markdown(table)
        assert escape(note) in to_html(table)
    assert json.loads(to_json(table))["notes"] == table.notes


def test_what_published_rows_do_not_have_is_a_note_too(tmp_path):
    """A decoder, in its row's name as well; other names; a second encoder; a set that was cut."""
    theirs = json.loads(Path(tables.__file__).with_name("published.json").read_text())["protocols"]
    raw = {name: x for name, x in theirs["zeroshot_segmentation"].items() if name not in ("decoder", "names")}
    raw |= {"readout": "map_value", "num_images": 2000, "num_classes": 150, "names_sha256": "0", "second": ""}
    own = raw | {"decoder": "radseg", "names": "synonyms", "num_words": 300, "num_images": 50}
    runs = [
        write(tmp_path / name, [record("zeroshot_segmentation", "ade150", miou=0.1, protocol=protocol)])
        for name, protocol in (("usual", raw), ("mine", own))
    ]
    table = paper_table("zero-shot-segmentation", runs)
    assert [row.name for row in table.rows if not row.published] == ["usual, teacher", "mine, teacher, radseg"]
    assert table.notes == [
        "mine, teacher, radseg: ade150: decoder radseg, not cosine; names synonyms, not mmseg; 50 images, not 2,000"
    ]
    baseline = {name: x for name, x in theirs["open_vocabulary_segmentation"].items() if name != "decoder"}
    scored = record("open_vocabulary_segmentation", "ade150", miou=0.1, protocol=baseline | {"readout": "map_value"})
    (note,) = paper_table("open-vocabulary", [write(tmp_path / "cosine", [scored])]).notes
    assert note == "cosine, teacher: ade150: decoder cosine, not catseg"


def test_a_head_is_not_named_twice_in_a_row(tmp_path):
    protocol = {"readout": "map_value", "decoder": "TCL"}
    one = record("zeroshot_segmentation", "ade150", "tcl", protocol=protocol, miou=0.1)
    table = paper_table("zero-shot-segmentation", [write(tmp_path / "mine", [one])])
    assert table.rows[-1].name == "mine, tcl"
    assert table.notes == ["mine, tcl: ade150: decoder TCL, not cosine"]


def test_the_published_protocols_are_what_evaluators_record(oracle, root):
    """At the published resolution, with big_vision's filter, the order of the shots alone is noted."""
    theirs = json.loads(Path(tables.__file__).with_name("published.json").read_text())["protocols"]
    model = replace(oracle, preprocess=Preprocess(448, interpolation="tf_bilinear"))
    evaluators = suite.tasks(EvalConfig(root=str(root), tasks=FOUR, shots=(1,)))
    differing = {}
    for evaluator in evaluators:
        kind = next(kind for kind, one in tasks.TASKS.items() if evaluator.name.endswith(f"-{one.suffix}"))
        ours = evaluator.protocol(model)
        unsaid = {"decoder": "cosine", "names": "mmseg"} if "readout" in ours else {}
        assert theirs[kind].keys() <= ours.keys() | unsaid.keys()
        differing |= {name: (unsaid | ours)[name] for name, x in theirs[kind].items() if (unsaid | ours)[name] != x}
        differing |= {
            name: ours[name] for name in ours.keys() - theirs[kind].keys() - {*tables.UNCOMPARED} if ours[name]
        }
    assert len(evaluators) == 4
    assert differing == {"order": "of the files"}


class CatSegAt384:
    """What records are asked of a CAT-Seg head of the published size."""

    name, patch_size, device, preprocess = "mine", 16, torch.device("cpu"), Preprocess(384)
    crop, templates, catseg = 384, "catseg", SimpleNamespace(readout="x")
    rules, record = CatSegModel.rules, CatSegModel.record

    def classes(self, names, embed):
        raise NotImplementedError

    def maps(self, images, classes):
        raise NotImplementedError


def test_a_head_of_the_published_size_is_scored_as_published(tmp_path):
    """Beside the rows of CAT-Seg no difference is noted, of PC-59 by its own names and VOC-21 by its background's."""
    image, label, records = Image.new("RGB", (8, 8)), np.zeros((8, 8), np.uint8), []
    for name, published, background, images in (
        ("pc59", "pascal_context_59", [], 5104),
        ("voc21", "voc_20", ["sky", "sea"], 1449),
    ):
        classes = [*(["background"] if background else []), *class_names(published)]
        data = SegmentationSet(name, classes, ["0"], [image], [label], published=published, background_words=background)
        protocol = OpenVocabularySegmentation("", data, EvalConfig()).protocol(CatSegAt384()) | {"num_images": images}
        records.append(record("open_vocabulary_segmentation", name, "catseg", miou=0.5, protocol=protocol))
    table = paper_table("open-vocabulary", [write(tmp_path / "mine", records)])
    assert table.notes == []
    assert table.rows[-1].name == "mine, catseg"


def test_rows_of_one_model_by_several_decoders_have_one_note_of_cost(tmp_path):
    """And a head in a folder that is called as it is has one name."""
    cheap = record("zeroshot_segmentation", "ade150", "tcl", protocol={"decoder": "TCL"}, miou=0.3)
    segmented = {"readout": "map_value", "protocol": "tcl", "window": 48}
    dear = [
        record("zeroshot_segmentation", "ade150", protocol=segmented | {"decoder": one}, miou=0.2)
        for one in ("cosine", "maskclip", "sclip")
    ]
    runs = [
        write(tmp_path / "tcl", [cheap | {"train_flops": 1e12}]),
        write(tmp_path / "below", [one | {"train_flops": 4e12} for one in dear]),
    ]
    table = paper_table("main", runs)
    assert [row.name for row in table.rows if not row.published][:2] == ["tcl", "below, teacher, cosine"]
    assert [note for note in table.notes if "FLOPs" in note] == [
        "below, teacher, cosine and 2 more took 4.0 times the training FLOPs of tcl for the same examples"
    ]


def test_what_rows_cost_stands_beside_them(tmp_path):
    """Equal examples are not equal compute: SILC's step is several of CLIP's."""
    runs = []
    for name, examples, flops in (("clip", 1000, 1e12), ("silc", 1000, 3.6e12), ("clip-longer", 3600, 3.59e12)):
        one = record("zeroshot_classification", "imagenet", acc1=0.5) | {
            "examples_seen": examples,
            "train_flops": flops,
        }
        runs.append(write(tmp_path / name, [one]))
    table = paper_table("ablation", runs)
    assert table.notes == [
        "silc, teacher took 3.6 times the training FLOPs of clip, teacher for the same examples",
        "clip-longer, teacher took 3.6 times the training FLOPs of clip, teacher",
    ]
    assert paper_table("ablation", runs[1:]).notes == []
    page = to_markdown(table)
    assert "| PC-59 | examples seen | training FLOPs |" in page
    assert "| silc, teacher | 50.0 |  |  |  |  |  | 1,000 | 3.60e+12 |" in page
    assert "| *CLIP* | 71.7 | 59.1 | 42.9 | 11.8 | 12.9 | 20.1 |  |  |" in page
    assert "<td>3,600</td><td>3.59e+12</td>" in to_html(table)
    assert json.loads(to_json(table))["rows"][-1]["train_flops"] == 3.59e12


def test_teacher_and_student_are_both_shown_where_they_are_compared(run):
    table = paper_table("teacher-student", [run])
    assert [row.name for row in table.rows[2:]] == ["mine, teacher", "mine, student"]
    assert scores(table, "mine, student")["A-150"] == pytest.approx(10)
    assert scores(table, "SILC-C*, student") == {"A-150": 16.1, "COCO-Stuff": 17.3, "PC-59": 27.4}


PAPER = {
    "main": """
        ImageNet 0-shot|CIFAR-100 0-shot|A-150|PC-59|Cityscapes|VOC-20|COCO-Stuff|COCO I2T R@1|COCO T2I R@1
        CLIP (WebLI)  74.1  68.4  15.0  24.0  22.6  69.5  15.0  61.7  43.9
        SILC-C*       75.3  71.0  17.2  29.3  25.1  73.5  18.2  62.5  44.9
        SILC-C        76.2  72.3  19.3  31.6  26.9  77.5  20.8  66.1  49.1
        SigLIP        75.1  69.8  13.6  22.9  20.8  64.7  13.4  62.6  44.9
        SILC-S*       75.8  69.2  16.7  28.6  23.4  72.1  17.3  63.0  44.6
        SILC-S        76.6  70.6  18.6  30.9  25.2  76.3  19.7  66.2  48.7""",
    "few-shot": """
        ImageNet 1-shot | ImageNet 5-shot | ImageNet 10-shot | CIFAR-100 1-shot | CIFAR-100 5-shot | CIFAR-100 10-shot
        CLIP (WebLI)  42.8  63.2  67.3  39.4  59.6  64.6
        SILC          45.3  65.0  68.5  45.2  66.9  71.3""",
    "sizes": """
        ImageNet 0-shot | CIFAR-100 0-shot | COCO I2T R@1 | COCO T2I R@1
        SILC-C B/16   76.2  72.3  66.1  49.1
        SILC-C B/8    78.2  -     67.3  50.3
        SILC-C L/16   81.4  81.4  70.1  52.8""",
    "teacher-student": """
        A-150 | COCO-Stuff | PC-59
        SILC-C*, student  16.1  17.3  27.4
        SILC-C*, teacher  17.2  18.2  29.3""",
    "ablation": """
        ImageNet 0-shot | COCO I2T R@1 | COCO T2I R@1 | A-150 | COCO-Stuff | PC-59
        CLIP  71.7  59.1  42.9  11.8  12.9  20.1
        + additional views in the contrastive loss  73.6  60.6  43.2  11.7  13.0  20.0
        + EMA (teacher evaluated)  73.7  61.3  43.1  11.9  13.3  20.5
        + self-distillation from local crops (SILC-C*)  74.3  62.7  43.9  12.2  15.3  21.1""",
    "open-vocabulary": """
        A-847 | PC-459 | A-150 | PC-59 | VOC-20 | VOC-21
        CLIP (WebLI) B/16  11.8  19.5  33.9  59.0  93.7  78.7
        SILC B/16          13.4  22.0  36.6  61.2  95.9  80.4
        SILC L/16          15.0  25.8  37.7  63.5  97.6  82.5
        SILC B/8           15.0  24.3  38.7  63.4  96.7  81.5""",
    "zero-shot-segmentation": """
        A-150 | PC-59 | Cityscapes | VOC-20 | COCO-Stuff
        CLIP (WebLI)  15.0  24.0  22.6  69.5  15.0
        SILC-C*       17.2  29.3  25.1  73.5  18.2
        SILC-C        19.3  31.6  26.9  77.5  20.8
        SigLIP        13.6  22.9  20.8  64.7  13.4
        SILC-S*       16.7  28.6  23.4  72.1  17.3
        SILC-S        18.6  30.9  25.2  76.3  19.7""",
}
"""The paper's tables, typed from it a second time. SILC-C's teacher at B/16 stands in three of them."""


@pytest.mark.parametrize("name", NAMES)
def test_published_rows_are_the_papers(name):
    heads, *lines = PAPER[name].strip().splitlines()
    labels = [label.strip() for label in heads.split("|")]
    rows = {}
    for line in lines:
        called, *values = re.split(r"\s{2,}", line.strip())
        rows[called] = {label: float(x) for label, x in zip(labels, values, strict=True) if x != "-"}
    table = paper_table(name, [])
    assert [column.label for column in table.columns] == labels
    assert {row.name: scores(table, row.name) for row in table.rows} == rows


@pytest.mark.parametrize("name", NAMES)
def test_every_table_has_a_source_and_full_published_rows(name):
    table = paper_table(name, [])
    assert "ECCV 2024" in table.source
    assert all(any(score is not None for score in row.scores) for row in table.rows)
    assert to_markdown(table).count("\n| ") == len(table.rows) + 2
    assert to_html(table).count("<tr") == len(table.rows) + 1


def test_the_command_line_has_every_table():
    assert set(get_args(get_type_hints(EvalCommand)["table"])) == {"", *NAMES}


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


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        ({"protocol": None}, "record 2 has no protocol"),
        ({"task": 3}, "record 2 has no task"),
        ({"metrics": []}, "record 2 has no metrics"),
        ({"metrics": {"miou": None}}, "record 2 has no number for miou"),
    ],
)
def test_a_record_that_lacks_a_part_is_told_in_one_line(tmp_path, capsys, broken, said):
    whole = record("zeroshot_segmentation", "ade150", miou=0.1)
    run = write(tmp_path / "mine", [whole, whole | broken])
    for asked in (["--table", "main"], ["--paper"]):
        assert main(["eval", str(run), *asked]) == 2
        told = capsys.readouterr().err.strip()
        assert said in told
        assert "\n" not in told
    (run / "scores.json").write_text('{"model": "mine"}')
    assert main(["eval", str(run), "--table", "main"]) == 2
    assert "is no list of records as `silc eval` writes it, but a dict" in capsys.readouterr().err


def test_one_command_scores_and_lays_out(small, tmp_path, capsys):
    """Two runs: each gets its own records, both stand in one report and one table."""
    from silc.data.scenes import write_sets
    from silc.pretraining import run

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


def test_latex_is_whole_and_escaped(tmp_path):
    one = record("zeroshot_segmentation", "ade150", miou=0.123, protocol={"refined": "PAMR"})
    table = paper_table("zero-shot-segmentation", [write(tmp_path / "a_b & 100%", [one])])
    text = to_latex(table)
    assert text.count(r"\\") == len(table.rows) + 1
    assert r"a\_b \& 100\%, teacher & 12.3 &  &  &  &  \\" in text
    assert r"\textsl{SILC-C} & 19.3 & 31.6 & 26.9 & 77.5 & 20.8 \\" in text
    assert text.index(r"\textsl{SILC-S}") < text.rindex(r"\midrule") < text.index(r"a\_b")
    assert "% a_b & 100%, teacher: ade150: refined PAMR, not off" in text


def test_a_row_that_no_text_states_is_left_out():
    table = paper_table("zero-shot-segmentation", [])
    assert not {row.name for row in table.rows} & {"ReCo", "MaskCLIP", "GroupViT", "TCL", "PACL"}
    assert "no text that could be read states those of ReCo, MaskCLIP, GroupViT, TCL and PACL" in table.source
