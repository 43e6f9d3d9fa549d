"""Pages over real scores of real shards: numbers against numpy, pictures at deciles and edges, targets in a folder."""

from __future__ import annotations

import base64
import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import silc
from silc import cli

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")
pytest.importorskip("duckdb")
pytest.importorskip("py3langid")


@pytest.fixture(scope="module")
def scored(finished: Callable[..., Path], shards: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("scored")
    where = ["data", "score", f"{shards[0].parent}/*.tar", "--out", str(out), "--device", "cpu"]
    assert cli.main([*where, "--model", str(finished("silc_c"))]) == 0
    return out


def column(scored: Path, name: str) -> list[Any]:
    return [
        value for file in sorted(scored.glob("*.parquet")) for value in pq.read_table(file).column(name).to_pylist()
    ]


def test_stats_say_what_numpy_says(scored: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["data", "stats", str(scored), "--out", str(tmp_path)]) == 0
    numbers = json.loads((tmp_path / "stats.json").read_text())
    scores = np.array(column(scored, "clip_score"))
    cuts = numbers["distributions"]["clip_score"]
    assert numbers["samples"] == 35
    assert [cuts[0], cuts[-1]] == pytest.approx([scores.min(), scores.max()], abs=1e-6)
    assert np.abs(np.array(cuts) - np.quantile(scores, np.arange(11) / 10)).max() < 0.1 * np.ptp(scores)
    assert numbers["distributions"]["shorter side"][5] == 30
    assert numbers["copies"] == {"sha256": 0, "phash": 35 - len(set(column(scored, "phash")))}
    assert numbers["words"].keys() <= {"photo", "picture", "number"}
    page = (tmp_path / "stats.html").read_text()
    pictures = re.findall(r"data:image/webp;base64,([^\"]+)", page)
    assert len(pictures) >= 11
    assert Image.open(io.BytesIO(base64.b64decode(pictures[0]))).size == (40, 30)
    assert "median" in capsys.readouterr().out


def test_a_selections_page_shows_its_edges(scored: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The first that goes by a threshold is the nearest below it, the first that stays the nearest above."""
    out = tmp_path / "subset.npy"
    keep = ["--keep", "clip_score top 40%", "--and", "chars > 7"]
    assert cli.main(["data", "select", str(scored), *keep, "--out", str(out)]) == 0
    scores, chars = np.array(column(scored, "clip_score")), np.array(column(scored, "chars"))
    limit = np.sort(scores)[::-1][14]
    assert len(np.load(out)) == ((scores >= limit) & (chars > 7)).sum()
    page = (tmp_path / "subset.html").read_text()
    goes, stays = page.split("Left out by this term alone")[1].split("Kept by this term alone")[:2]
    captions = np.array(column(scored, "caption"))
    below = (scores < limit) & (chars > 7)
    nearest = captions[below][np.argmax(scores[below])]
    assert nearest in re.findall(r"<figcaption>([^<]+?) <", goes)[0]
    above = (scores >= limit) & (chars > 7)
    assert captions[above][np.argmin(scores[above])] in re.findall(r"<figcaption>([^<]+?) <", stays)[0]
    assert f"{(chars > 7).sum()} are decided by this term alone" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("keep", "goes", "stays"),
    [
        ("x > 2 and y > 2", [{"b"}, {"c"}], [{"a"}, {"a"}]),
        ("x > 2 or y > 2", [{"d"}, {"d"}], [{"c"}, {"b"}]),  # those that the other keeps are not decided by it
        ("x > 2 and not y > 2", [{"d"}, {"a"}], [{"c"}, {"c"}]),
        ("x > 2 and (x > 2 or y > 2)", [{"b", "d"}, set()], [{"a", "c"}, set()]),  # a term that stands twice
    ],
)
def test_a_page_shows_what_each_term_decides(
    keep: str, goes: list[set[str]], stays: list[set[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of a (x and y), b (y alone), c (x alone) and d (neither), for each term in turn."""
    columns = {"caption": ["a", "b", "c", "d"], "x": [3, 0, 3, 0], "y": [3, 3, 0, 0]}
    pq.write_table(pa.table({"uid": [f"{n:032x}" for n in range(4)], **columns}), tmp_path / "0.parquet")
    out = tmp_path / "s.npy"
    assert cli.main(["data", "select", str(tmp_path), "--keep", keep, "--out", str(out)]) == 0
    parts = (tmp_path / "s.html").read_text().split("Left out by this term alone")[1:]
    shown = [
        [set(re.findall(r"<figcaption>(\w) <", half)) for half in part.split("Kept by this term alone")]
        for part in parts
    ]
    assert [first for first, _ in shown] == goes
    assert [second for _, second in shown] == stays
    said = capsys.readouterr().out
    for out_, in_ in zip(goes, stays, strict=True):
        assert f"{len(out_ | in_)} are decided by this term alone" in said


def test_targets_may_be_a_folder_of_images(
    scored: Path,
    finished: Callable[..., Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As with an array of the embeddings that the model has of them, which are kept; other widths are refused."""
    from silc.curate import targets as targets_module

    model = silc.load(finished("silc_c"), device="cpu")
    folder = tmp_path / "train" / "n01"
    folder.mkdir(parents=True)
    for number in range(3):
        Image.effect_noise((30, 30), 40 * number).convert("RGB").save(folder / f"{number}.png")
    embeddings = model.encode_image(sorted(folder.iterdir())).numpy()
    np.save(tmp_path / "targets.npy", embeddings)
    found = []
    for targets in (folder.parent, tmp_path / "targets.npy"):
        out = tmp_path / "subset.npy"
        keep = ["--keep", f"image_near {targets}", "--centroids", "5", "--device", "cpu"]
        assert cli.main(["data", "select", str(scored), *keep, "--out", str(out)]) == 0
        found.append(out.read_bytes())
    assert found[0] == found[1]
    folder_keep = ["--keep", f"image_near {folder.parent}", "--centroids", "5", "--device", "cpu", "--out", str(out)]
    with monkeypatch.context() as patched:  # embedded once, until an image changes
        patched.setattr(targets_module, "load_any", lambda *_, **__: pytest.fail("the model was loaded again"))
        assert cli.main(["data", "select", str(scored), *folder_keep]) == 0
        assert out.read_bytes() == found[0]
    (folder / "3.png").write_bytes(b"none")
    capsys.readouterr()
    assert cli.main(["data", "select", str(scored), *folder_keep]) == 0
    assert "1 of 4 images are left out" in capsys.readouterr().err
    assert out.read_bytes() == found[0]
    np.save(tmp_path / "targets.npy", embeddings[:, :9])
    again = ["data", "select", str(scored), "--keep", f"image_near {tmp_path}/targets.npy", "--out", str(out)]
    assert cli.main(again) == 2
    assert "needed [n, 32]" in capsys.readouterr().err


def test_numbers_that_are_none_are_in_no_distribution(tmp_path: Path) -> None:
    columns = {"clip_score": [0.1, float("nan"), 0.3], "width": [10, 0, 0], "height": [20, 0, 5]}
    pq.write_table(pa.table({"uid": [f"{n:032x}" for n in range(3)], **columns}), tmp_path / "0.parquet")
    assert cli.main(["data", "stats", str(tmp_path), "--out", str(tmp_path / "page")]) == 0
    refused: Any = lambda text: pytest.fail(f"{text} is no JSON")  # noqa: E731
    numbers = json.loads((tmp_path / "page" / "stats.json").read_text(), parse_constant=refused)["distributions"]
    assert (numbers["clip_score"][0], numbers["clip_score"][-1]) == (0.1, 0.3)
    assert numbers["aspect"][-1] == 2


def test_pages_do_without_the_shards(tmp_path: Path) -> None:
    pq.write_table(
        pa.table(
            {"uid": [f"{n:032x}" for n in range(20)], "clip_score": np.linspace(0, 1, 20), "caption": ["<b>"] * 20}
        ),
        tmp_path / "0.parquet",
    )
    assert cli.main(["data", "stats", str(tmp_path), "--out", str(tmp_path / "page")]) == 0
    page = (tmp_path / "page" / "stats.html").read_text()
    assert "the shard is missing" in page
    assert "&lt;b&gt;" in page
