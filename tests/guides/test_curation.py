"""docs/guides/curation.md: its commands run, its columns and terms exist."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from silc.cli import main
from silc.config import Config
from silc.pretraining import run

pq = pytest.importorskip("pyarrow.parquet")
pytest.importorskip("duckdb")
pytest.importorskip("py3langid")
GUIDE = (Path(__file__).parents[2] / "docs" / "guides" / "curation.md").read_text()
QUICK = """--train.duration '1 steps' --train.optim.warmup 0% --train.optim.cooldown 0% --train.batch-size 2
--train.device cpu --data.workers 0 --data.crops.local-size 8"""
SMALL = """--model.embed-dim 32 --model.image.size 16 --model.image.patch 8 --model.image.width 32 --model.image.depth 1
--model.image.heads 2 --model.image.mlp 64 --model.text.length 12 --model.text.width 32 --model.text.depth 1
--model.text.heads 2 --model.text.mlp 64 --model.head.hidden 32 --model.head.bottleneck 16 --model.head.prototypes 24"""
"""The towers of `place`'s run; a recipe has its own."""


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", GUIDE, flags=re.DOTALL)


@pytest.fixture
def place(small: Callable[..., Config], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with forty pairs, photographs to be near to, and a trained out/pretrained."""
    monkeypatch.chdir(tmp_path)
    run.train(small("silc_c", duration="2 steps", out="out/pretrained"))
    (tmp_path / "photos").mkdir()
    rows = ["file_name,caption"]
    for number in range(40):
        small_noise = np.random.default_rng(number).integers(0, 256, (7, 8, 3), dtype=np.uint8)
        Image.fromarray(small_noise).resize((240, 210)).save(tmp_path / "photos" / f"{number}.jpg")
        rows.append(f"photos/{number}.jpg,A white dog runs through the snow with a bottle number {number}")
    (tmp_path / "pairs.csv").write_text("\n".join(rows))
    return tmp_path


def test_the_commands_run(place: Path) -> None:
    (block,) = blocks("sh")
    more = {"score": ["--device", "cpu"], "select": ["--device", "cpu", "--centroids", "3"]}
    for line in block.splitlines():
        words = shlex.split(line)
        assert words[0] == "silc"
        added = shlex.split(f"{QUICK} {SMALL}") if words[1] == "train" else more.get(words[2], [])
        assert main([*words[1:], *added]) == 0, line
    assert 0 < len(np.load("subset.npy")) <= 13
    for made in ("page/stats.html", "subset.html", "looked/report.html", "out/silc/config.yaml"):
        assert Path(made).is_file(), made
    named = set(re.findall(r"`([a-z0-9_]+)`", GUIDE.partition("## Scores")[2].partition("## Expressions")[0]))
    columns = set(pq.read_schema("scores/00000.parquet").names)
    assert columns <= named


def test_terms_of_the_table_are_read(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """On scores of the guide's own pairs: forty English captions that say dog and snow, no picture twice."""
    assert main(["data", "make", "pairs.csv", "--out", "data/{0..}.tar"]) == 0
    assert main(["data", "score", "data/0.tar", "--model", "out/pretrained", "--out", "scores", "--device", "cpu"]) == 0
    Path("WORDS.txt").write_text("dog\nsnow\n")
    table = GUIDE.partition("| term | keeps |")[2].partition("\n\n")[0]
    terms = [term for row in table.splitlines()[2:] for term in re.findall(r"`([^`]+)`", row.split("|")[1])]
    assert len(terms) == 14
    scores = pq.read_table("scores/0.parquet", columns=["clip_score"]).column(0).to_numpy()
    some = {"clip_score top 30%": 13, "language = de": 0, "laion2b": int((scores >= np.float32(0.28)).sum())}
    for term in terms:
        keep = term.replace("IMAGES", "photos").replace("json.license", "json.file_name")
        words = ["--keep", f"{keep} or all", "--out", "s.npy"]
        words += ["--centroids", "2"] if re.match(r"image_near|distinct 0", keep) else []
        words += ["--device", "cpu"] if keep.startswith("image_near") else []
        capsys.readouterr()
        assert main(["data", "select", "scores", *words]) == 0, term
        (said,) = re.findall(rf"{re.escape(keep)}: keeps (\d+)", capsys.readouterr().out)
        if term != "distinct 0.95":  # a model of two steps takes pictures for alike
            assert int(said) == some.get(term, 40), term
        assert 0 <= int(said) <= 40
        assert len(np.load("s.npy")) == 40


def test_noise_that_was_planted_goes(place: Path) -> None:
    """Precision and recall of the filters that need no model, over tiny pictures, copies, near copies, foreign and
    empty-headed captions among forty good pairs."""
    rows = (place / "pairs.csv").read_text().splitlines()
    bad = {}
    for number in range(8):
        with Image.open(place / "photos" / f"{number}.jpg") as image:
            image.resize((24, 21)).save(place / "photos" / f"tiny{number}.jpg")
            image.resize((210, 184)).save(place / "photos" / f"near{number}.jpg", quality=70)
        (place / "photos" / f"copy{number}.jpg").write_bytes((place / "photos" / f"{number + 8}.jpg").read_bytes())
        noise = np.random.default_rng(100 + number).integers(0, 256, (7, 8, 3), dtype=np.uint8)
        for kind in ("foreign", "junk"):
            Image.fromarray(noise.transpose(1, 0, 2) if kind == "junk" else noise).resize((240, 210)).save(
                place / "photos" / f"{kind}{number}.jpg"
            )
        english = f"A brown cat is sleeping on the sofa with number {number}"
        captions = {"tiny": english, "near": english, "copy": english}
        captions |= {"foreign": f"Ein Mann spielt Gitarre auf der Straße Nummer {number}", "junk": f"IMG_{number}.jpg"}
        bad |= {f"photos/{kind}{number}.jpg": caption for kind, caption in captions.items()}
    (place / "all.csv").write_text("\n".join([*rows, *(f"{name},{caption}" for name, caption in bad.items())]))
    assert main(["data", "make", "all.csv", "--out", "data/{0..}.tar"]) == 0
    assert main(["data", "score", "data/0.tar", "--out", "scores"]) == 0
    keep = ["--keep", "width >= 100", "--and", "english > 0.05", "--and", "words > 2", "--and", "distinct phash"]
    assert main(["data", "select", "scores", *keep, "--out", "s.npy"]) == 0
    table = pq.read_table("scores/0.parquet")
    chosen = {f"{first:016x}{last:016x}" for first, last in np.load("s.npy").tolist()}
    files = [Path(json.loads(fields)["file_name"]).stem for fields in table.column("json").to_pylist()]
    kept = {name for name, uid in zip(files, table.column("uid").to_pylist(), strict=True) if uid in chosen}
    assert not [name for name in kept if name.startswith(("tiny", "foreign", "junk"))]
    for number in range(8):  # of a copy and its original either may stay
        assert len(kept & {f"copy{number}", str(number + 8)}) == 1
    contents = {name.removeprefix("near") for name in kept if not name.startswith("copy")}
    contents |= {str(int(name.removeprefix("copy")) + 8) for name in kept if name.startswith("copy")}
    recall, precision = len(contents) / 40, len(contents) / len(kept)
    assert recall >= 0.9  # `distinct` may keep the tiny copy, which `width` takes away
    assert precision >= 0.9  # a near copy may differ in a bit of its hash
