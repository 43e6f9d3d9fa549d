"""Shards made of tables, folders and parquet hold their images byte for byte, and are read by training."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from silc import cli
from silc.data.config import DataConfig
from silc.data.sources import open_pairs
from tests.data.conftest import encoded, photo

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")
NAMES = ["a.jpg", "b.png", "sub/c.webp", "d.gif", "e.bmp"]
FORMATS = ["JPEG", "PNG", "WEBP", "GIF", "BMP"]


def images(folder: Path) -> dict[str, bytes]:
    found = {}
    (folder / "sub").mkdir(parents=True)
    for number, (name, format) in enumerate(zip(NAMES, FORMATS, strict=True)):
        found[name] = encoded(photo(number), format)
        (folder / name).write_bytes(found[name])
    return found


def csv(folder: Path, _: dict[str, bytes]) -> Path:
    rows = [f'{name},"picture, of {name}"' for name in NAMES]
    (folder / "pairs.csv").write_text("\n".join(["file_name,caption", *rows]))
    return folder / "pairs.csv"


def tsv(folder: Path, _: dict[str, bytes]) -> Path:
    rows = [f"{name}\tpicture, of {name}" for name in NAMES]
    (folder / "pairs.tsv").write_text("\n".join(["image\ttext", *rows]))
    return folder / "pairs.tsv"


def jsonl(folder: Path, _: dict[str, bytes]) -> Path:
    rows = [json.dumps({"file_name": name, "caption": f"picture, of {name}"}) for name in NAMES]
    (folder / "pairs.jsonl").write_text("\n".join(rows))
    return folder / "pairs.jsonl"


def parquet_of_paths(folder: Path, _: dict[str, bytes]) -> Path:
    table = pa.table({"image_path": NAMES, "text": [f"picture, of {name}" for name in NAMES]})
    pq.write_table(table, folder / "pairs.parquet")
    return folder / "pairs.parquet"


def parquet_of_bytes(folder: Path, found: dict[str, bytes]) -> Path:
    table = pa.table(
        {
            "image": [{"bytes": found[name], "path": name} for name in NAMES],
            "caption": [f"picture, of {name}" for name in NAMES],
        }
    )
    pq.write_table(table, folder / "pairs.parquet", row_group_size=2)
    return folder / "pairs.parquet"


def files_beside(folder: Path, _: dict[str, bytes]) -> Path:
    for name in NAMES[:3]:
        (folder / name).with_suffix(".txt").write_text(f"picture, of {name}\n")
    for name in NAMES[3:]:
        (folder / name).with_suffix(".json").write_text(json.dumps({"caption": f"picture, of {name}"}))
    return folder


@pytest.mark.parametrize("table", [csv, tsv, jsonl, parquet_of_paths, parquet_of_bytes, files_beside])
def test_shards_hold_what_the_table_names(
    table: Callable[[Path, dict[str, bytes]], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = images(tmp_path / "in")
    given = table(tmp_path / "in", found)
    out = tmp_path / "out"
    assert cli.main(["data", "make", str(given), "--out", f"{out}/{{00007..}}.tar", "--per-shard", "2"]) == 0
    assert sorted(file.name for file in out.glob("*.tar")) == ["00007.tar", "00008.tar", "00009.tar"]
    assert f"silc data check '{out}/{{00007..00009}}.tar'" in capsys.readouterr().out
    pairs: Any = open_pairs(DataConfig(train=f"{out}/{{00007..00009}}.tar"), seed=0)
    rows = {}
    for index in range(len(pairs)):
        members = pairs.read(index)
        fields = json.loads(members["json"])
        rows[fields["file_name"]] = (members["image"], pairs[index].captions, fields)
    assert {name: image for name, (image, *_) in rows.items()} == found
    for name, (image, captions, fields) in rows.items():
        assert captions == (f"picture, of {name}",)
        assert fields["sha256"] == hashlib.sha256(image).hexdigest()
        assert (fields["width"], fields["height"]) == (40, 30)
    assert len({fields["uid"] for *_, fields in rows.values()}) == 5


def test_work_goes_on_where_it_stopped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = csv(tmp_path / "in", images(tmp_path / "in"))
    command = ["data", "make", str(given), "--out", f"{tmp_path}/out/{{0..}}.tar", "--per-shard", "2"]
    assert cli.main(command) == 0
    whole = {file.name: file.read_bytes() for file in (tmp_path / "out").iterdir()}
    (tmp_path / "out" / "1.tar").unlink()
    capsys.readouterr()
    assert cli.main(command) == 0
    assert "2 samples are in 1 new shards\n2 shards were there already" in capsys.readouterr().out
    assert {file.name: file.read_bytes() for file in (tmp_path / "out").iterdir()} == whole
    assert cli.main([*command[:-1], "3"]) == 2
    assert "of another table or size" in capsys.readouterr().err


def test_what_cannot_be_used_is_left_out_and_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images(tmp_path / "in")
    (tmp_path / "in" / "page.jpg").write_bytes(b"<html>404</html>")
    rows = ["a.jpg,good,fine", "page.jpg,a,b", "none.jpg,a,b", "../b.png,a,b", "b.png, ,"]
    (tmp_path / "in" / "pairs.csv").write_text("\n".join(["file_name,caption,title", *rows]))
    out = tmp_path / "out"
    assert cli.main(["data", "make", str(tmp_path / "in" / "pairs.csv"), "--out", f"{out}/{{0..}}.tar"]) == 0
    said = capsys.readouterr().out
    assert "1 samples are in 1 new shards" in said
    assert "left out: empty_caption 1, no_image 2, unsafe_path 1" in said
    lines = [json.loads(line) for line in (out / "quarantine.jsonl").read_text().splitlines()]
    assert {line["key"] for line in lines} == {"page.jpg", "none.jpg", "../b.png", "b.png"}


@pytest.mark.parametrize(
    ("name", "out", "said"),
    [
        ("pairs.csv", "out/00000.tar", "a pattern without an end"),
        ("pairs.csv", "out/{00..09}.tar", "without an end"),
        ("pairs.csv", "s3://bucket/{0..}.tar", "on this machine"),
        ("none.csv", "out/{0..}.tar", "is nothing that shards are made of"),
        ("sub", "out/{0..}.tar", "says of none what it shows"),
        ("half.parquet", "out/{0..}.tar", "no whole parquet file"),
        ("columns.parquet", "out/{0..}.tar", "has the columns a"),
    ],
)
def test_bad_input_is_told(name: str, out: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    csv(tmp_path / "in", images(tmp_path / "in"))
    (tmp_path / "in" / "half.parquet").write_bytes(b"PAR1")
    pq.write_table(pa.table({"a": [1]}), tmp_path / "in" / "columns.parquet")
    place = out if "://" in out else str(tmp_path / out)
    assert cli.main(["data", "make", str(tmp_path / "in" / name), "--out", place]) == 2
    complaint = capsys.readouterr().err
    assert said in complaint
    assert complaint.count("\n") == 1


def test_shards_of_others_are_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    csv(tmp_path / "in", images(tmp_path / "in"))
    (tmp_path / "0.tar").write_bytes(b"mine")
    assert cli.main(["data", "make", str(tmp_path / "in" / "pairs.csv"), "--out", f"{tmp_path}/{{0..}}.tar"]) == 2
    assert "was not made by" in capsys.readouterr().err
    assert (tmp_path / "0.tar").read_bytes() == b"mine"
