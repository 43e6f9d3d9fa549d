"""A folder with a table of captions: both tables, the field's names, and every way a row can be broken."""

from __future__ import annotations

import csv
import io
import json
import os
import pickle
import subprocess
import tarfile
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from silc import config as configs
from silc.cli import main
from silc.config import Config
from silc.data.config import DataConfig
from silc.data.folder import FolderPairs
from silc.data.pairs import BadSample
from silc.data.quarantine import QUARANTINE
from silc.data.shards import ShardPairs
from silc.data.sources import open_pairs
from silc.data.tables import table_of
from silc.errors import BadInput
from silc.training.log import history
from tests.data.conftest import encoded, photo
from tests.data.test_loader import assert_equal, loader

Rows = list[dict[str, object]]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Twelve images in a folder of their own, a secret one outside."""
    (tmp_path / "data" / "images").mkdir(parents=True)
    for number in range(12):
        (tmp_path / "data" / "images" / f"{number}.jpg").write_bytes(encoded(photo(number)))
    (tmp_path / "secret.jpg").write_bytes(encoded(photo(99)))
    return tmp_path / "data"


def write_jsonl(folder: Path, rows: Rows) -> Path:
    file = folder / "captions.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def write_csv(folder: Path, header: list[str], rows: list[list[str]], delimiter: str = ",") -> Path:
    text = io.StringIO(newline="")
    csv.writer(text, delimiter=delimiter).writerows([header, *rows])
    (folder / "captions.csv").write_bytes(text.getvalue().encode())
    return folder / "captions.csv"


def listed(pairs: FolderPairs) -> list[tuple[str, tuple[str, ...]]]:
    return [(pair.key, pair.captions) for pair in (pairs[index] for index in range(len(pairs)))]


@pytest.mark.parametrize("image", ["file_name", "image", "filepath"])
@pytest.mark.parametrize("caption", ["caption", "captions", "text", "title"])
def test_the_fields_usual_names(folder: Path, image: str, caption: str) -> None:
    names = [f"images/{number}.jpg" for number in range(3)]
    table = write_csv(folder, ["id", caption, image], [[str(i), f"photo {i}", name] for i, name in enumerate(names)])
    expected = [(name, (f"photo {i}",)) for i, name in enumerate(names)]
    assert listed(FolderPairs(table)) == expected
    rows: Rows = [{"id": i, caption: f"photo {i}", image: name} for i, name in enumerate(names)]
    assert listed(FolderPairs(write_jsonl(folder, rows))) == expected
    assert np.array_equal(FolderPairs(table)[2].pixels, pickle.loads(pickle.dumps(FolderPairs(table)))[2].pixels)


def test_several_captions_of_one_image(folder: Path) -> None:
    """A list, several rows (Flickr8k's own captions.txt), or several columns."""
    expected = [("images/0.jpg", ("one", "two", "three")), ("images/1.jpg", ("four",))]
    rows: Rows = [
        {"file_name": "images/0.jpg", "captions": ["one", " two "]},
        {"file_name": "images/1.jpg", "caption": "four"},
        {"file_name": "images/0.jpg", "caption": "three"},
    ]
    assert listed(FolderPairs(write_jsonl(folder, rows))) == expected
    lines = [["images/0.jpg", "one"], ["images/0.jpg", "two"], ["images/1.jpg", "four"], ["images/0.jpg", "three"]]
    assert listed(FolderPairs(write_csv(folder, ["image", "caption"], lines))) == expected
    lines = [["images/0.jpg", "one", "two"], ["images/1.jpg", "four", ""], ["images/0.jpg", "three", ""]]
    assert listed(FolderPairs(write_csv(folder, ["image", "caption", "title"], lines))) == expected


def test_what_spreadsheets_write(folder: Path) -> None:
    """A byte order mark, tabs, quotes, lines within a field, CRLF."""
    table = write_csv(folder, ["filepath", "title"], [["images/0.jpg", 'a "dog",\nrunning']], delimiter="\t")
    table.write_bytes(b"\xef\xbb\xbf" + table.read_bytes())
    assert b"\r\n" in table.read_bytes()
    assert listed(FolderPairs(table)) == [("images/0.jpg", ('a "dog",\nrunning',))]


def test_the_table_is_found(folder: Path) -> None:
    assert table_of(folder) is None
    with pytest.raises(BadInput, match=r"without captions\.jsonl or captions\.csv"):
        open_pairs(DataConfig(train=str(folder)), seed=0)
    by_csv = write_csv(folder, ["image", "caption"], [["images/0.jpg", "a"]])
    assert table_of(folder) == table_of(by_csv) == by_csv
    by_jsonl = write_jsonl(folder, [{"image": "images/0.jpg", "caption": "a"}, {"image": "images/1.jpg", "text": "b"}])
    assert table_of(folder) == by_jsonl
    assert len(open_pairs(DataConfig(train=str(folder)), seed=0)) == 2
    assert len(open_pairs(DataConfig(train=str(by_csv)), seed=0)) == 1


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("captions.csv", b"", "columns"),
        ("captions.csv", b"image,label\n1.jpg,dog\n", "'label'"),
        ("captions.csv", b"image,caption\n", "no row"),
        ("captions.jsonl", b"\n \n", "no row"),
    ],
)
def test_a_table_without_pairs_is_named(folder: Path, name: str, content: bytes, message: str) -> None:
    (folder / name).write_bytes(content)
    with pytest.raises(BadInput, match=message) as caught:
        open_pairs(DataConfig(train=str(folder)), seed=0)
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


INSIDE = {
    "00000/0.tar": r"name the tar files in it, for example '.*data/\*\.tar'",
    "00000.tar.gz": r"00000\.tar\.gz in it is compressed: unpack it",
    "a/00000.TGZ": r"00000\.TGZ in it is compressed",
    "00000/7.jpg 00000/7.txt 00000/7.json": r"img2dataset's output_format `files`.*do tar -cf",
    "b/7.GIF b/7.txt": "have a .txt or .json each",
    "7.jpg 7.txt": r"`tar -cf \S+data\.tar -C \S+data \.`",
    "list.TSV 7.jpg": r"list\.TSV in it seems to be a table: name \S+data/list\.TSV itself",
    "pictures/1.GIF": "holds images, but no captions",
    "notes.md": "holds no images and no tar files",
    "": "holds no images and no tar files",
}


@pytest.mark.parametrize("names", INSIDE)
def test_a_folder_without_a_table_is_told_what_to_do(tmp_path: Path, names: str) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    for name in names.split():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).touch()
    with pytest.raises(BadInput, match=INSIDE[names]) as caught:
        open_pairs(DataConfig(train=str(folder)), seed=0)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["captions.tsv", "Captions.CSV", "captions.txt", "list.TXT", "my table.Tsv", "c.json"])
def test_a_table_of_any_usual_name_is_read(folder: Path, name: str) -> None:
    text = "image\tcaption\nimages/0.jpg\ta\nimages/1.jpg\tb\n"
    rows = [{"image": "images/0.jpg", "caption": "a"}, {"image": "images/1.jpg", "caption": "b"}]
    (folder / name).write_text(json.dumps(rows) if name.endswith("json") else text)
    pairs = open_pairs(DataConfig(train=str(folder / name)), seed=0)
    assert listed(pairs) == [("images/0.jpg", ("a",)), ("images/1.jpg", ("b",))]  # type: ignore[arg-type]


def test_tables_among_others_and_beside_one_another_are_told(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("captions.csv", "captions.tsv"):
        (folder / name).write_text("image,caption\nimages/0.jpg,a\n")
    assert len(open_pairs(DataConfig(train=str(folder)), seed=0)) == 1
    assert "captions.csv is read, and these tables beside it are not: captions.tsv" in caplog.text
    with pytest.raises(BadInput, match=r"captions\.csv holds no sample: it seems to be a table of captions"):
        open_pairs(DataConfig(train=f"{folder}/captions.*", index_cache="off"), seed=0)


def test_the_advice_for_img2datasets_files_works(tmp_path: Path, shards: list[Path]) -> None:
    for shard in shards[:2]:
        (tmp_path / "data" / shard.stem).mkdir(parents=True)
        with tarfile.open(shard) as tar:
            tar.extractall(tmp_path / "data" / shard.stem, filter="data")
    with pytest.raises(BadInput) as caught:
        open_pairs(DataConfig(train=str(tmp_path / "data")), seed=0)
    command = str(caught.value).split("`")[3]
    subprocess.run(command, shell=True, check=True, executable="/bin/sh")
    pairs = open_pairs(DataConfig(train=str(tmp_path / "data/*.tar"), index_cache=str(tmp_path / "cache")), seed=0)
    assert sorted(pairs[index].captions for index in range(len(pairs))) == sorted(
        pair.captions for pair in ShardPairs(shards[:2])
    )


def hostile(folder: Path) -> dict[str, str]:
    """Names of images that must not, or cannot, be read, by what becomes of them."""
    (folder / "out.jpg").symlink_to(folder.parent / "secret.jpg")
    (folder / "up").symlink_to(folder.parent)
    (folder / "in.jpg").symlink_to("images/3.jpg")
    os.mkfifo(folder / "pipe.jpg")  # would wait forever for someone who writes
    (folder / "html.jpg").write_text("<html>")
    (folder / "zero.jpg").touch()
    (folder / "cut.jpg").write_bytes(encoded(photo(0))[:-300])
    return {
        "../secret.jpg": "unsafe_path",
        "images/../../secret.jpg": "unsafe_path",
        str(folder.parent / "secret.jpg"): "unsafe_path",
        "out.jpg": "unsafe_path",
        "up/secret.jpg": "unsafe_path",
        "/dev/zero": "unsafe_path",
        "pipe.jpg": "no_image",
        "images": "no_image",
        "nowhere.jpg": "no_image",
        "html.jpg": "no_image",
        "zero.jpg": "empty_image",
        "cut.jpg": "broken_image",
        "nul\0.jpg": "unreadable",
        "x" * 300 + ".jpg": "no_image",
    }


@pytest.mark.timeout(60)
def test_nothing_outside_the_folder_is_read(folder: Path) -> None:
    expected = hostile(folder)
    table = write_jsonl(folder, [{"file_name": name, "caption": "a"} for name in [*expected, "in.jpg"]])
    pairs, found = FolderPairs(table), {}
    for index in range(len(expected)):
        with pytest.raises(BadSample) as caught:
            pairs[index]
        shard, key, cause, _ = caught.value.broken
        assert shard == str(table)
        found[key] = cause
    assert found == expected
    assert pairs[len(expected)].key == "in.jpg"


def test_a_folder_may_itself_be_a_link(folder: Path, tmp_path: Path) -> None:
    write_jsonl(folder, [{"file_name": "images/0.jpg", "caption": "a"}])
    (tmp_path / "link").symlink_to(folder)
    assert FolderPairs(tmp_path / "link" / "captions.jsonl")[0].captions == ("a",)


BROKEN_ROWS = {
    b'{"file_name": "images/1.jpg"}': ("images/1.jpg", "no_caption"),
    b'{"file_name": "images/2.jpg", "caption": "  "}': ("images/2.jpg", "empty_caption"),
    b'{"file_name": "images/3.jpg", "caption": "caf\xe9"}': ("images/3.jpg", "broken_caption"),
    b'{"file_name": "images/4.jpg", "captions": ["a", 3]}': ("images/4.jpg", "broken_caption"),
    b'{"file_name": "images/5.jpg", "capt': ("line 6", "broken_caption"),
    b"[1, 2]": ("line 7", "broken_caption"),
    b"[" * 100_000: ("line 8", "broken_caption"),
    b'{"caption": "a photo of nothing"}': ("line 9", "no_image"),
    b'{"file_name": 7, "caption": "a"}': ("line 10", "no_image"),
}


def test_broken_rows_are_samples_of_their_own(folder: Path) -> None:
    table = folder / "captions.jsonl"
    good = b'{"file_name": "images/0.jpg", "caption": "half \\ud800 pair"}'
    table.write_bytes(b"\n".join([good, *BROKEN_ROWS]))
    pairs = FolderPairs(table)
    assert pairs[0].captions == ("half ? pair",)
    assert len(pairs) == 1 + len(BROKEN_ROWS)
    for index, expected in enumerate(BROKEN_ROWS.values(), start=1):
        with pytest.raises(BadSample) as caught:
            pairs[index]
        assert caught.value.broken[1:3] == expected
    assert list(pairs.captions(100)) == ["half ? pair", "a photo of nothing", "a"]


def test_broken_lines_of_csv(folder: Path) -> None:
    table = folder / "captions.csv"
    huge = b"x" * 200_000  # over the csv module's limit of a field
    table.write_bytes(
        b"image,caption\nimages/0.jpg,good\nimages/1.jpg\n,lost\nimages/2.jpg,caf\xe9\nimages/3.jpg," + huge
    )
    found = {}
    pairs = FolderPairs(table)
    for index in range(1, len(pairs)):
        with pytest.raises(BadSample) as caught:
            pairs[index]
        found[caught.value.broken.key] = caught.value.broken.cause
    assert found == {
        "images/1.jpg": "no_caption",
        "line 4": "no_image",
        "images/2.jpg": "broken_caption",
        "line 6": "broken_caption",
    }


def test_order_and_fingerprint(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs of rows are blocks, as shards are; the same list elsewhere is the same data."""
    monkeypatch.setattr("silc.data.folder.BLOCK", 5)
    rows: Rows = [{"image": f"images/{number}.jpg", "caption": f"photo {number}"} for number in range(12)]
    pairs = FolderPairs(write_jsonl(folder, rows))
    assert pairs.blocks.tolist() == [5, 5, 2]
    folder.rename(folder.with_name("moved"))
    moved = FolderPairs(folder.with_name("moved") / "captions.jsonl")
    assert moved.fingerprint == pairs.fingerprint
    other = FolderPairs(write_jsonl(folder.with_name("moved"), rows[::-1]))
    assert other.fingerprint != pairs.fingerprint
    assert len({key for batch in loader(moved).batches(0, 1) for key in batch.keys}) == 8
    assert_equal(list(loader(moved, workers=2).batches(0, 3)), list(loader(moved).batches(0, 3)))


def elsewhere(folder: Path) -> tuple[Path, dict[str, str]]:
    """A table in a folder of its own, and the paths of its rows by what becomes of them; `folder` is the root."""
    (folder / "out.jpg").symlink_to(folder.parent / "secret.jpg")
    (folder / "in.jpg").symlink_to("images/3.jpg")
    (folder.parent / "link").symlink_to(folder)  # another name of the root
    (folder.parent / "data2").mkdir()  # begins as the root does
    (folder.parent / "data2" / "0.jpg").write_bytes(encoded(photo(0)))
    tables = folder.parent / "tables"
    tables.mkdir()
    (tables / "beside.jpg").write_bytes(encoded(photo(0)))
    return tables, {
        "images/0.jpg": "",
        str(folder / "images" / "1.jpg"): "",
        str(folder.parent / "link" / "images" / "2.jpg"): "",
        "images/../images/3.jpg": "",
        "in.jpg": "",
        "../data/images/4.jpg": "",
        "../secret.jpg": "unsafe_path",
        str(folder / ".." / "secret.jpg"): "unsafe_path",
        str(folder.parent / "secret.jpg"): "unsafe_path",
        str(folder.parent / "data2" / "0.jpg"): "unsafe_path",
        "out.jpg": "unsafe_path",
        str(folder / "out.jpg"): "unsafe_path",
        str(tables / "beside.jpg"): "unsafe_path",
        "beside.jpg": "no_image",
    }


@pytest.mark.parametrize("write", ["captions.jsonl", "captions.csv", "captions.tsv"])
def test_images_lie_under_another_root_than_the_table(folder: Path, write: str) -> None:
    """Relative paths are the root's, absolute ones are allowed in it, and nothing leads out of it."""
    tables, expected = elsewhere(folder)
    if write.endswith("jsonl"):
        write_jsonl(tables, [{"image": name, "caption": "a"} for name in expected])
    else:
        delimiter = "\t" if write.endswith("tsv") else ","
        write_csv(tables, ["image", "caption"], [[name, "a"] for name in expected], delimiter).rename(tables / write)
    pairs, found = open_pairs(DataConfig(train=str(tables), image_root=f"{folder}/"), seed=0), {}
    for index, name in enumerate(expected):
        try:
            assert pairs[index].key == name
            found[name] = ""
        except BadSample as bad:
            found[name] = bad.broken.cause
    assert found == expected
    # Without a root it is the table's folder, as before.
    pairs = open_pairs(DataConfig(train=str(tables)), seed=0)
    assert pairs[list(expected).index("beside.jpg")].key == "beside.jpg"
    assert pairs[list(expected).index(str(tables / "beside.jpg"))].captions == ("a",)
    with pytest.raises(BadSample, match="unsafe_path"):
        pairs[1]


def test_a_root_of_images_is_a_folder_and_has_a_table(folder: Path) -> None:
    write_jsonl(folder, [{"image": "images/0.jpg", "caption": "a"}])
    with pytest.raises(BadInput, match=r"data.image_root .*gone is no folder"):
        open_pairs(DataConfig(train=str(folder), image_root=str(folder / "gone")), seed=0)
    with tarfile.open(folder / "0.tar", "w"):
        pass
    with pytest.raises(BadInput, match=r"is for a table of captions, and data.train names none"):
        open_pairs(DataConfig(train=str(folder / "0.tar"), image_root=str(folder)), seed=0)


def test_silc_data_check_reads_under_a_root(folder: Path, tmp_path: Path) -> None:
    tables, expected = elsewhere(folder)
    write_jsonl(tables, [{"image": name, "caption": "a"} for name in expected])
    args = ["--image-root", str(folder), "--workers", "0", "--out", str(tmp_path / "check")]
    assert main(["data", "check", str(tables), *args]) == 0
    causes = json.loads((tmp_path / "check" / "check.json").read_text())["causes"]
    assert causes == dict(Counter(cause for cause in expected.values() if cause))


def test_silc_train_reads_a_folder(small: Callable[..., Config], folder: Path, tmp_path: Path) -> None:
    rows: Rows = [{"image": f"images/{number}.jpg", "caption": f"photo {number}"} for number in range(12)]
    bad: Rows = [{"image": "../secret.jpg", "caption": "x"}, {"image": "images/0.jpg", "text": " and more"}]
    write_jsonl(folder, rows + bad + [{"image": "gone.jpg", "caption": "y"}, {"image": "images/1.jpg"}])
    base = small("silc_c", duration="2 steps", batch_size=7)
    configs.save(replace(base, data=replace(base.data, source="shards")), tmp_path / "base.yaml")
    args = ["--data.train", str(folder), "--out", str(tmp_path / "out"), "--data.max-bad-rate", "0.2"]
    assert main(["train", str(tmp_path / "base.yaml"), *args]) == 0
    last = history(tmp_path / "out")[-1]
    assert {k: v for k, v in last.items() if k.startswith("bad/")} == {"bad/no_image": 1, "bad/unsafe_path": 1}
    listed = [json.loads(line) for line in (tmp_path / "out" / QUARANTINE).read_text().splitlines()]
    assert Counter((entry["key"], entry["cause"]) for entry in listed) == {
        ("../secret.jpg", "unsafe_path"): 1,
        ("gone.jpg", "no_image"): 1,
    }
