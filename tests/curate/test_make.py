"""Shards made of tables, folders and parquet hold their images byte for byte, and are read by training."""

from __future__ import annotations

import hashlib
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from silc import cli
from silc.commands import data_make
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


UIDS = [f"{number:032x}" for number in range(5)]


def with_uids(folder: Path, kind: str) -> Path:
    """A table of the images with a uid, a link and a licence each."""
    columns = {"url": [f"https://a/{name}" for name in NAMES], "uid": UIDS, "caption": ["a dog"] * 5}
    if kind == "parquet of bytes":
        images = [{"bytes": (folder / name).read_bytes(), "path": "one.jpg"} for name in NAMES]
        pq.write_table(pa.table({"image": images, **columns}), folder / "pairs.parquet")
    elif kind == "parquet":
        pq.write_table(pa.table({"file_name": NAMES, **columns}), folder / "pairs.parquet")
    elif kind == "csv":
        rows = [",".join(row) for row in zip(NAMES, *columns.values(), strict=True)]
        (folder / "pairs.csv").write_text("\n".join([",".join(["file_name", *columns]), *rows]))
    else:
        rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
        lines = [json.dumps({"file_name": name, **row}) for name, row in zip(NAMES, rows, strict=True)]
        (folder / "pairs.jsonl").write_text("\n".join(lines))
        for name, row in zip(NAMES, rows, strict=True):
            (folder / name).with_suffix(".json").write_text(json.dumps(row))
    found = [*folder.glob("pairs.*")]
    if kind == "folder":
        found[0].unlink()
    return folder if kind == "folder" else found[0]


def fields_in(shard: Path) -> list[dict[str, Any]]:
    with tarfile.open(shard) as tar:
        return [json.load(tar.extractfile(name)) for name in tar.getnames() if name.endswith(".json")]  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet", "parquet of bytes", "folder"])
def test_uids_and_other_fields_of_a_row_stay(kind: str, tmp_path: Path) -> None:
    images(tmp_path / "in")
    given = with_uids(tmp_path / "in", kind)
    assert cli.main(["data", "make", str(given), "--out", f"{tmp_path}/out/{{0..}}.tar"]) == 0
    found = fields_in(tmp_path / "out" / "0.tar")
    assert sorted(fields["uid"] for fields in found) == UIDS
    assert {fields["url"] for fields in found} == {f"https://a/{name}" for name in NAMES}
    assert {fields["caption"] for fields in found} == {"a dog"}


def test_keys_have_no_dots(tmp_path: Path) -> None:
    """WebDataset takes what is behind the first for a suffix."""
    given = csv(tmp_path / "in", images(tmp_path / "in"))
    assert cli.main(["data", "make", str(given), "--out", f"{tmp_path}/out/v1.2-{{0..}}.tar"]) == 0
    with tarfile.open(tmp_path / "out" / "v1.2-0.tar") as tar:
        assert {name.partition(".")[0] for name in tar.getnames()} == {f"v1-2-0{row:04d}" for row in range(5)}


def test_made_uids_are_those_of_the_content(tmp_path: Path) -> None:
    """Two data sets with a `pairs.csv` and an `a.jpg` each share no uid, and a uid that is none is kept beside."""
    found = []
    for number, folder in enumerate((tmp_path / "one", tmp_path / "two")):
        folder.mkdir()
        (folder / "a.jpg").write_bytes(encoded(photo(number)))
        (folder / "pairs.csv").write_text("file_name,caption,uid\na.jpg,a dog,7")
        assert cli.main(["data", "make", str(folder / "pairs.csv"), "--out", f"{folder}/out/{{0..}}.tar"]) == 0
        found += fields_in(folder / "out" / "0.tar")
    assert found[0]["uid"] != found[1]["uid"]
    assert [fields["given_uid"] for fields in found] == ["7", "7"]


def test_a_text_that_is_no_utf8_is_no_caption(tmp_path: Path) -> None:
    images(tmp_path / "in")
    (tmp_path / "in" / "a.txt").write_bytes(b"caf\xe9")
    (tmp_path / "in" / "b.txt").write_text("good")
    assert cli.main(["data", "make", str(tmp_path / "in"), "--out", f"{tmp_path}/out/{{0..}}.tar"]) == 0
    assert [fields["caption"] for fields in fields_in(tmp_path / "out" / "0.tar")] == ["good"]
    assert '"broken_caption"' in (tmp_path / "out" / "quarantine.jsonl").read_text()


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
    assert cli.main([*command[:4], f"{tmp_path}/out/{{1..}}.tar", *command[5:]]) == 2
    assert "another size or other numbers" in capsys.readouterr().err
    about = json.loads((tmp_path / "out" / "make.json").read_text())
    del about["names"]  # as it was once
    (tmp_path / "out" / "make.json").write_text(json.dumps(about))
    assert cli.main(command) == 0
    assert cli.main([*command[:-1], "3"]) == 2
    assert "have another table, another size" in capsys.readouterr().err
    (tmp_path / "out" / "make.json").write_text("[")
    assert cli.main(command) == 2
    assert capsys.readouterr().err.count("\n") == 1


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
        ("pairs.csv", "out/00000.tar", "no pattern of shards on this machine; give a range without an end"),
        ("pairs.csv", "out/{00..09}.tar", "without an end"),
        ("pairs.csv", "s3://bucket/{0..}.tar", "on this machine"),
        ("none.csv", "out/{0..}.tar", "shards cannot be made of"),
        ("sub", "out/{0..}.tar", "images and no captions"),
        ("half.parquet", "out/{0..}.tar", "no complete parquet file"),
        ("columns.parquet", "out/{0..}.tar", "has the columns a"),
        ("empty.parquet", "out/{0..}.tar", "has no row"),
        ("numbers.parquet", "out/{0..}.tar", "holds int64 in its column image"),
    ],
)
def test_bad_input_is_told(name: str, out: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    csv(tmp_path / "in", images(tmp_path / "in"))
    (tmp_path / "in" / "half.parquet").write_bytes(b"PAR1")
    pq.write_table(pa.table({"a": [1]}), tmp_path / "in" / "columns.parquet")
    empty = {"image": pa.array([], pa.binary()), "caption": pa.array([], pa.string())}
    pq.write_table(pa.table(empty), tmp_path / "in" / "empty.parquet")
    pq.write_table(pa.table({"image": [1], "caption": ["a"]}), tmp_path / "in" / "numbers.parquet")
    place = out if "://" in out else str(tmp_path / out)
    assert cli.main(["data", "make", str(tmp_path / "in" / name), "--out", place]) == 2
    complaint = capsys.readouterr().err
    assert said in complaint
    assert complaint.count("\n") == 1


def test_what_was_left_out_is_listed_before_the_next_shard(tmp_path: Path) -> None:
    """A kill in the middle of the second shard loses no row of the first's list."""
    from silc.curate.make import make, open_entries, places_of

    given = csv(tmp_path / "in", images(tmp_path / "in"))
    (tmp_path / "in" / "a.jpg").write_bytes(b"none")
    making = data_make._listed(
        make(open_entries(str(given)), places_of(f"{tmp_path}/out/{{0..}}.tar"), 2, "pairs.csv"), tmp_path / "list"
    )
    next(iter(making))
    assert '"a.jpg"' in (tmp_path / "list").read_text()


def test_shards_of_others_are_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    csv(tmp_path / "in", images(tmp_path / "in"))
    (tmp_path / "0.tar").write_bytes(b"mine")
    assert cli.main(["data", "make", str(tmp_path / "in" / "pairs.csv"), "--out", f"{tmp_path}/{{0..}}.tar"]) == 2
    assert "was not made by" in capsys.readouterr().err
    assert (tmp_path / "0.tar").read_bytes() == b"mine"
