"""The page is complete, loads nothing, and says what is chance."""

from __future__ import annotations

import io
import re
from dataclasses import replace

import pytest
import torch
from PIL import Image

from silc.eval import curves, report, suite
from silc.eval.config import EvalConfig
from silc.eval.pictures import PANEL, contact_sheet, retrieval_strip
from silc.eval.report import write_report
from silc.eval.score_table import column_names, paired, percent, printed_table, score_table
from silc.records import Evaluation, Picture, Record
from silc.terminal import console


@pytest.fixture
def evaluations(root, oracle, noise) -> list[Evaluation]:
    evaluators = suite.tasks(EvalConfig(root=str(root), num_pictures=2))
    return suite.run({"student": noise, "teacher": oracle}, evaluators, examples_seen=12_345, train_flops=6.7e12)


def history(evaluations: list[Evaluation]) -> list[dict]:
    steps = [
        {"step": step, "loss/contrastive": 5 / step, "loss/distill": 6.0, "lr": 1e-3 * step, "grad_norm": 1 / step}
        | {"teacher/entropy": 3 - step / 9, "logit_scale": 10 + step, "note": "text is left out", "skipped": 0}
        for step in range(1, 6)
    ]
    broken = {"step": 6, "loss/contrastive": float("nan")}
    return [*steps, broken, {"step": 3} | suite.scalars(evaluations), {"step": 6} | suite.scalars(evaluations)]


def test_the_page_is_complete_and_loads_nothing(evaluations, tmp_path):
    page = tmp_path / "report.html"
    summary = "First <line>.\n\nSecond & last."
    write_report(
        page, title="run <1>", summary=summary, evaluations=evaluations, histories={"run": history(evaluations)}
    )
    html = page.read_text()
    assert "run &lt;1&gt;" in html
    assert "<p>First &lt;line&gt;.</p>" in html
    assert html.count("<script>") == html.count("<script") == 1  # ours, in the page
    assert not re.findall(r'(?:src|href)="(?!data:|#)[^"]*"', html)
    assert not re.search(r"fetch|XMLHttpRequest|import", html[html.index("<script>") :])
    contents = re.findall(r'<a href="#(\w+)">', html)
    assert {"scores", "training", "examples", "protocols"} <= set(contents)
    assert re.findall(r'<section id="(\w+)"', html) == contents
    assert not re.search(r"url\((?!#)", html)
    for text in ("loss/contrastive", "teacher/entropy", "grad_norm", "stripes-zs-seg: miou in %", "best constant"):
        assert text in html
    assert "12,345 examples seen, 6.70e+12 training FLOPs" in html
    # Two pictures of each of two models in retrieval and segmentation.
    assert html.count('<img src="data:image/webp;base64,') == 8


def test_ids_that_drawings_refer_to_are_defined_once(evaluations, tmp_path):
    write_report(
        tmp_path / "r.html", title="", summary="", evaluations=evaluations, histories={"run": history(evaluations)}
    )
    html = (tmp_path / "r.html").read_text()
    referred = set(re.findall(r"url\(#([^)]+)\)", html)) | set(re.findall(r'href="#([^"]+)"', html))
    assert referred
    defined = re.findall(r'\bid="([^"]+)"', html)
    assert {name for name in referred if defined.count(name) != 1} == set()


@pytest.mark.parametrize("missing", [0, 7])
def test_a_model_that_some_task_could_not_score(evaluations, tmp_path, missing):
    """The table and the page hold what there is, where one number of model and task is not."""
    left = [one for number, one in enumerate(evaluations) if number != missing]
    write_report(tmp_path / "r.html", title="", summary="", evaluations=left, histories={})
    here = console(file=io.StringIO(), width=200)
    here.print(printed_table(left))
    for said in (here.file.getvalue(), (tmp_path / "r.html").read_text()):
        assert evaluations[missing].record.dataset in said


def test_a_page_without_history_or_scores(evaluations, tmp_path):
    write_report(tmp_path / "a.html", title="a", summary="", evaluations=evaluations, histories={})
    assert "<h2>Training</h2>" not in (tmp_path / "a.html").read_text()
    write_report(
        tmp_path / "b.html", title="b", summary="", evaluations=[], histories={"run": [{"step": 1, "loss": 2.0}]}
    )
    assert "<h2>Scores</h2>" not in (tmp_path / "b.html").read_text()


def test_the_same_run_gives_the_same_page(evaluations, tmp_path):
    for name in ("a", "b"):
        write_report(
            tmp_path / name, title="t", summary="", evaluations=evaluations, histories={"run": history(evaluations)}
        )
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def scored(model: str, weights: str, resampled: list[float] | None = None, **metrics: float) -> Evaluation:
    chance = {"miou": 0.1, "best_constant_miou": 0.2}
    record = Record("voc", "zeroshot_segmentation", metrics, chance, {"num_images": 9}, model=model, weights=weights)
    return Evaluation(record, resampled={} if resampled is None else {"miou": resampled})


def test_the_best_is_marked_only_where_it_surely_is():
    """Draws of b lie above those of a by .1 each, though both swing by more; c swings on its own."""
    swing = torch.linspace(0, 0.4, 1000)
    a = scored("a", "", swing.tolist(), miou=0.2)
    b = scored("b", "", (swing + 0.1).tolist(), miou=0.3)
    c = scored("c", "", swing.flip(0).tolist(), miou=0.2)
    (row,) = score_table([a, b]).rows
    assert (row.chance, row.constant, row.floor, row.num_images) == (0.1, 0.2, 0.2, 9)
    assert row.best == {"b"}
    assert score_table([a, b, c]).rows[0].best == set()
    assert score_table([a, scored("b", "", miou=0.3)]).rows[0].best == set()  # of unknown spread
    assert score_table([a]).rows[0].best == set()
    (pair,) = paired(score_table([a, b]))
    assert (pair.column, pair.than, pair.sure) == ("b", "a", True)
    assert (pair.difference, pair.low, pair.high) == pytest.approx((0.1, 0.1, 0.1))
    assert [pair.sure for pair in paired(score_table([a, c]))] == [False]


def test_a_model_that_was_not_scored_on_a_task_has_an_empty_cell(evaluations):
    table = score_table([*evaluations, scored("c", "pretrained", miou=0.5)])
    assert table.rows[0].scores.keys() == {"noise student", "oracle teacher"}
    assert table.rows[-1].scores.keys() == {"c pretrained"}


def test_columns_are_named_by_weights_when_there_is_one_model():
    records = [scored("a", "student").record, scored("a", "teacher").record, scored("a", "").record]
    assert column_names(records) == ["student", "teacher", "model"]


def test_printed_table(evaluations):
    out = io.StringIO()
    console(file=out, width=120).print(printed_table(evaluations))
    text = out.getvalue()
    assert "stripes-zs-seg" in text
    assert "100.0" in text
    assert "best constant" in text
    assert percent(evaluations[0].record.chance["acc1"]) in text


def test_pictures_are_large_enough_to_read(evaluations):
    for evaluation in evaluations:
        for picture in evaluation.pictures:
            assert min(picture.image.size) >= 160
            assert picture.caption
    overlay = evaluations[-1].pictures[0].image
    assert overlay.width >= 3 * PANEL


def test_the_right_image_is_framed():
    images = [Image.new("RGB", (8, 8), "white")] * 3
    framed = [retrieval_strip(images, rank, 10).getcolors(maxcolors=10**6) for rank in (2, 7)]
    green = [sum(count for count, (r, g, b) in colours if (r, g, b) == (22, 163, 74)) for colours in framed]
    assert green[0] > 0
    assert green[1] == 0


def test_contact_sheet_holds_every_picture():
    pictures = [Picture("g", f"caption {i}", Image.new("RGB", (300, 100 + i), "red")) for i in range(5)]
    sheet = contact_sheet(pictures, columns=2)
    assert sheet.width > 600
    assert sheet.height > 300
    red = {colour: count for count, colour in sheet.getcolors(maxcolors=10**6)}[255, 0, 0]
    assert red == sum(300 * (100 + i) for i in range(5))


def test_runs_stand_side_by_side(evaluations, tmp_path):
    """Scores against cost, confusions and class tables, when records have them."""
    details = {
        "most_confused": [{"truth": "cat", "taken_for": "dog", "count": 3, "share": 0.25}],
        "class_iou": [{"class": "cat", "iou": 0.5, "pixels": 30}, {"class": "sky", "iou": None, "pixels": 10}],
    }
    segmented = [e for e in evaluations if e.record.task == "zeroshot_segmentation"]
    runs = [
        replace(e, record=replace(e.record, model=model, examples_seen=seen, train_flops=1e9 * seen, details=details))
        for model, seen in (("early", 100), ("late", 400))
        for e in segmented
    ]
    histories = {name: [{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.0}] for name in ("early", "late")}
    settings = {name: {"train.seed": 0, "train.optim.lr": 1e-3} for name in ("early", "late")}
    write_report(tmp_path / "r.html", title="t", summary="", evaluations=runs, histories=histories, settings=settings)
    page = (tmp_path / "r.html").read_text()
    assert "Against examples seen" in page
    assert "Against training FLOPs" in page
    assert "train.optim.lr" not in page
    assert '<td>cat</td><td>dog</td><td class="number">25.0</td>' in page
    assert "IoU by class" in page
    assert "early" in page
    assert "late" in page
    write_report(tmp_path / "r.html", title="t", summary="", evaluations=evaluations, histories={})
    assert "Against examples seen" not in (tmp_path / "r.html").read_text()


def test_settings_that_differ_are_listed(tmp_path):
    settings = {"a": {"train.seed": 0, "train.optim.lr": 1e-3}, "b": {"train.seed": 0, "train.optim.lr": 3e-4}}
    histories = {name: [{"step": 1, "loss": 2.0}] for name in settings}
    write_report(tmp_path / "r.html", title="", summary="", evaluations=[], histories=histories, settings=settings)
    page = (tmp_path / "r.html").read_text()
    assert "<td><code>train.optim.lr</code></td><td>0.001</td><td>0.0003</td>" in page
    assert "train.seed" not in page


def test_a_model_has_one_colour_and_a_point_of_cost_is_not_joined():
    runs = [
        replace(
            scored(model, weights, miou=score),
            record=replace(scored(model, weights, miou=score).record, examples_seen=n),
        )
        for model, weights, score, n in (
            ("a", "student", 0.3, 100),
            ("a", "teacher", 0.4, 100),
            ("b", "student", 0.5, 200),
        )
    ]
    palette = curves.palette_of(["a", "b", "a"])
    assert palette["a"] != palette["b"]
    assert len({curves.palette_of(list(map(str, range(30))))[str(i)] for i in range(30)}) == 30
    ((_, (svg,)),) = curves.cost_plots(runs, palette)
    assert svg.count(palette["a"]) >= 2
    assert palette["b"] in svg
    history = {"a": [{"step": s, "loss": 1 / s} for s in (1, 2, 3)]}
    ((_, (curve,)),) = curves.training_curves(history, palette)
    joined = rf'<path d="M[^"]*L[^"]*" [^>]*stroke: {palette["a"]}'
    assert re.search(joined, curve)
    assert not re.search(joined, svg)


def test_large_costs_are_written_at_their_ticks():
    """Matplotlib's common factor, 1e11, would stand below the drawing, cut in half."""
    runs = [
        replace(
            scored(model, "student", miou=0.3), record=replace(scored(model, "student", miou=0.3).record, train_flops=n)
        )
        for model, n in (("a", 1.2e11), ("b", 2.1e11))
    ]
    ((_, (svg,)),) = curves.cost_plots(runs, curves.palette_of(["a", "b"]))
    assert "1e11" not in svg
    assert ">200 G<" in svg


def test_long_curves_are_thinned_and_keep_their_spikes():
    points = [(float(x), 50.0 if x == 7777 else x % 3) for x in range(100_000)]
    kept = curves.thinned(points)
    assert len(kept) <= curves.MAX_POINTS
    assert (7777.0, 50.0) in kept
    assert kept == sorted(kept)
    assert curves.thinned(points[:9]) == points[:9]


def test_a_page_with_many_pictures_and_long_histories_stays_small(tmp_path, monkeypatch):
    noise = torch.randint(0, 256, (300, 420, 3), dtype=torch.uint8).numpy()
    pictures = [Picture(f"set {i % 2}", f"image {i}", Image.fromarray(noise)) for i in range(6)]
    evaluations = [replace(scored(model, "student", miou=0.3), pictures=pictures) for model in "abc"]
    records = [{"step": s, "loss": 1 / s, "lr": s, "grad_norm": s % 7} for s in range(1, 1001)]
    page = {"title": "", "summary": "", "evaluations": evaluations, "histories": dict.fromkeys("abc", records)}
    write_report(tmp_path / "r.html", **page)
    assert 5e5 < len((tmp_path / "r.html").read_text()) < 3e6
    monkeypatch.setattr(report, "PICTURE_BYTES", 100_000)
    write_report(tmp_path / "r.html", **page)
    html = (tmp_path / "r.html").read_text()
    assert len(html) < 1e6
    groups, left_out = report.galleries(evaluations)
    kept = [len(entries) for _, entries in groups]
    assert 0 < left_out == 6 - sum(kept)
    assert min(kept) > 0
    assert max(kept) - min(kept) <= 1
    assert f"{left_out} more were left out" in html
