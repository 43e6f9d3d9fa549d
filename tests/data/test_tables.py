"""Tables of captions as people write them: every row comes out as it was meant, or is a broken sample of its own."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from silc.data.captions import NoCaption, usable
from silc.data.folder import FolderPairs
from silc.data.tables import read_rows, table_of
from silc.errors import BadInput


def rows(path: Path, content: bytes | str) -> dict[str, Any]:
    """{image: captions, or the cause}; the number of rows is checked by whoever wrote them."""
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    found: dict[str, Any] = {}
    for name, captions in read_rows(path).captions.items():
        try:
            found[name] = list(usable(captions))
        except NoCaption as error:
            found[name] = error.cause
    return found


THREE = {"1.jpg": ["a"], "2.jpg": ["b"], "3.jpg": ["c"]}
CSV: dict[str, dict[str, Any]] = {
    # A quotation mark that closes nowhere, or in another row.
    'filepath\ttitle\n1.jpg\t"open\n2.jpg\tb\n3.jpg\tc\n': THREE | {"1.jpg": ['"open']},
    'filepath\ttitle\n1.jpg\t"open\n2.jpg\t"b\n3.jpg\tc\n': THREE | {"1.jpg": ['"open'], "2.jpg": ['"b']},
    'filepath\ttitle\n1.jpg\t"open\n2.jpg\tb"\n3.jpg\tc\n': THREE | {"1.jpg": ['"open'], "2.jpg": ['b"']},
    'filepath\ttitle\n1.jpg\ta\n2.jpg\tb\n3.jpg\t"the end': THREE | {"3.jpg": ['"the end']},
    'filepath\ttitle\n1.jpg\t"a" dog\n2.jpg\tb\n3.jpg\t5" pipe\n': THREE | {"1.jpg": ['"a" dog'], "3.jpg": ['5" pipe']},
    'title\tfilepath\n"open\t1.jpg\nb\t2.jpg\nc\t3.jpg\n': THREE | {"1.jpg": ['"open']},
    'image,caption\n1.jpg,"open\n2.jpg,b\n3.jpg,c\n': THREE | {"1.jpg": ['"open']},
    'image,caption\n1.jpg,"open\n2.jpg,says "hi"\n3.jpg,c\n': THREE | {"1.jpg": ['"open'], "2.jpg": ['says "hi"']},
    'image,caption\n1.jpg,"open\n2.jpg,b"\n3.jpg,c\n': THREE | {"1.jpg": ['"open'], "2.jpg": ['b"']},
    # Quotes as RFC 4180 has them, over lines too.
    'image,caption\n1.jpg,"a\nline, and another"\n2.jpg,b\n': {"1.jpg": ["a\nline, and another"], "2.jpg": ["b"]},
    'image,caption\r\n1.jpg,"a ""b"",\r\nc"\r\n2.jpg,b\r\n': {"1.jpg": ['a "b",\r\nc'], "2.jpg": ["b"]},
    'image\tcaption\n1.jpg\t"a ""b"",\nc"\n2.jpg\tb\n': {"1.jpg": ['a "b",\nc'], "2.jpg": ["b"]},
    '"image","caption"\n"1.jpg","a"\n"2.jpg","b"\n"3.jpg","c"\n': THREE,
    # More columns than the first line names.
    "image,caption\n1.jpg,a dog, running\n2.jpg,b\n": {"1.jpg": ["a dog, running"], "2.jpg": ["b"]},
    "image,caption\n1.jpg,one, two, three\n": {"1.jpg": ["one, two, three"]},
    "image,caption\n1.jpg,a dog,running\n2.jpg,b\n": {"1.jpg": "broken_caption", "2.jpg": ["b"]},
    "caption,image\na dog, running,1.jpg\nb,2.jpg\n": {"running": "broken_caption", "2.jpg": ["b"]},
    "image, caption\n1.jpg, a dog, running\n2.jpg, b\n": {"1.jpg": "broken_caption", "2.jpg": ["b"]},
    "image\tcaption\n1.jpg\ta dog\t0.87\n2.jpg\tb\n": {"1.jpg": "broken_caption", "2.jpg": ["b"]},
    "image,caption,title\n1.jpg,a,b, c\n": {"1.jpg": "broken_caption"},
    "image,caption\n1.jpg,a,,\n2.jpg,b, \n3.jpg,c\n": THREE,  # what spreadsheets leave
    "image,caption,\n1.jpg,a,\n2.jpg,b,\n3.jpg,c,\n": THREE,
    "image,caption,score\n1.jpg,a,1\n2.jpg\n": {"1.jpg": ["a"], "2.jpg": "no_caption"},
    # Ends of lines, marks, blank lines, other delimiters and names.
    "\ufeffimage,caption\r\n1.jpg,a\r\n2.jpg,b\r\n\r\n3.jpg,c\r\n\r\n": THREE,
    "\n\nimage,caption\r1.jpg,a\r2.jpg,b\r3.jpg,c": THREE,
    "image;caption\n1.jpg;a\n2.jpg;b\n3.jpg;c\n": THREE,
    "Image | Caption\n1.jpg | a\n2.jpg | b\n3.jpg | c\n": THREE,
    "File_Name,TEXT\n1.jpg,a\n2.jpg,b\n./3.jpg,c\n3.jpg,d\n": {"1.jpg": ["a"], "2.jpg": ["b"], "./3.jpg": ["c", "d"]},
    "image,caption\n1.jpg,a\n,b\n": {"1.jpg": ["a"], "line 3": ["b"]},
}


@pytest.mark.parametrize("content", CSV)
def test_rows_of_csv(tmp_path: Path, content: str) -> None:
    for name in ("captions.csv", "captions.TSV", "captions.txt"):  # the first line says what it is
        assert rows(tmp_path / name, content) == CSV[content]


def test_what_pythons_writer_writes_is_read(tmp_path: Path) -> None:
    """Random captions of quotes, delimiters and ends of lines, by both of its ways to quote."""
    rng = np.random.default_rng(0)
    for delimiter in ",\t":
        for quoting in (csv.QUOTE_MINIMAL, csv.QUOTE_ALL):
            captions = ["x" + "".join(rng.choice(list('ab "\n,;\t'), 12)) + "x" for _ in range(50)]
            text = io.StringIO(newline="")
            table = [["image", "caption"], *([f"{i}.jpg", caption] for i, caption in enumerate(captions))]
            csv.writer(text, delimiter=delimiter, quoting=quoting).writerows(table)
            (tmp_path / "t.csv").write_bytes(text.getvalue().encode())
            found = read_rows(tmp_path / "t.csv")
            assert list(found.captions.values()) == [[caption] for caption in captions]
            assert found.num == 50


def test_rows_are_counted(tmp_path: Path) -> None:
    (tmp_path / "captions.csv").write_text("image,caption\n1.jpg,a\n1.jpg,b\n\n2.jpg,c,d\n,e\n")
    pairs = FolderPairs(tmp_path / "captions.csv")
    assert (len(pairs), pairs.contents) == (3, {"rows": 4})


JSON: list[tuple[Any, Any]] = [
    ({"caption": "a"}, ["a"]),
    ({"captions": "a string"}, ["a string"]),
    ({"captions": ["a", None, " b "]}, ["a", "b"]),
    ({"captions": [], "text": "a"}, ["a"]),
    ({"captions": [None], "caption": None, "title": ["a", "b"]}, ["a", "b"]),
    ({"caption": 3}, "broken_caption"),
    ({"caption": 0.5}, "broken_caption"),
    ({"caption": False}, "broken_caption"),
    ({"captions": ["a", 3]}, "broken_caption"),
    ({"captions": [["a"]]}, "broken_caption"),
    ({"caption": {"en": "a"}}, "broken_caption"),
    ({"caption": ""}, "empty_caption"),
    ({"captions": ["", "\n "]}, "empty_caption"),
    ({"captions": None}, "no_caption"),
    ({"label": "a"}, "no_caption"),
]


@pytest.mark.parametrize(("fields", "expected"), JSON)
def test_objects_are_read_alike_in_lists_and_lines(tmp_path: Path, fields: Any, expected: Any) -> None:
    entry = {"image": "1.jpg"} | fields
    other = {"file_name": "2.jpg", "caption": "b"}
    both = {"1.jpg": expected, "2.jpg": ["b"]}
    assert rows(tmp_path / "captions.jsonl", f"\ufeff{json.dumps(entry)}\r\n\r\n{json.dumps(other)}\r\n") == both
    assert rows(tmp_path / "captions.json", "\ufeff" + json.dumps([entry, other], indent=1)) == both


def test_json_is_read_as_it_is_written_whatever_its_suffix(tmp_path: Path) -> None:
    entries = [{"image": "1.jpg", "caption": "a"}, {"image": "2.jpg", "caption": "b"}]
    both = {"1.jpg": ["a"], "2.jpg": ["b"]}
    for name in ("a.json", "a.JSONL"):
        for text in (json.dumps(entries), json.dumps(entries, indent=1), "\n".join(map(json.dumps, entries))):
            assert rows(tmp_path / name, f"\ufeff\n{text}\r\n") == both


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be"])
@pytest.mark.parametrize("name", ["a.csv", "a.json", "a.jsonl", "a.txt"])
def test_utf_16_is_named(tmp_path: Path, name: str, encoding: str) -> None:
    (tmp_path / name).write_bytes(
        "\ufeffimage\tcaption\n1.jpg\ta\n".encode(encoding).replace(b"\xff\xfe" * 2, b"\xff\xfe")
    )
    with pytest.raises(BadInput, match=r"is UTF-16 text.*save it as UTF-8"):
        read_rows(tmp_path / name)


def test_a_number_is_named(tmp_path: Path) -> None:
    (tmp_path / "captions.jsonl").write_text('{"image": "1.jpg", "caption": 3}\n')
    with pytest.raises(NoCaption, match=r"has the number 3 for a caption; a caption must be text in quotes"):
        usable(read_rows(tmp_path / "captions.jsonl").captions["1.jpg"])


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", "{", "is no JSON"),
        ("a.json", '{"image": "1.jpg"}', "must be a JSON list"),
        ("a.json", "[" * 100_000, "is no JSON"),
        ("a.json", '{"images": [], "annotations": []}', "COCO's form.*join them by image_id"),
        ("a.jsonl", "[" * 100_000, "is no JSON"),
        ("a.json", "1\n2\n", "is no JSON"),
        ("a.csv", "1.jpg,a dog\n2.jpg,a cat\n", r"has the columns \['1\.jpg', 'a dog'\]; needed a first line"),
        ("a.tsv", "caption\turl\nx\thttp://y\n", r"\['caption', 'url'\]"),
        ("a.txt", "\n\n", "columns"),
        ("a.txt", "just words " * 1000, "columns"),
    ],
)
def test_what_is_no_table_is_told(tmp_path: Path, name: str, content: str, message: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(BadInput, match=message) as caught:
        read_rows(tmp_path / name)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    "name", ["captions.jsonl", "captions.CSV", "Captions.tsv", "captions.json", "captions.txt", "metadata.csv"]
)
def test_tables_are_found_by_name_in_any_case(tmp_path: Path, name: str) -> None:
    (tmp_path / "notes.txt").touch()
    (tmp_path / name).touch()
    assert table_of(tmp_path) == tmp_path / name == table_of(tmp_path / name)
    assert table_of(tmp_path / "gone.csv") is None
    assert table_of(tmp_path.with_name("00000.tar")) is None
    assert table_of(tmp_path / ("{" + "00000," * 100 + "}.csv")) is None


@pytest.mark.parametrize(
    ("name", "content", "digest"),
    [
        (
            "captions.csv",
            b'\xef\xbb\xbffile_name,caption\r\n1.jpg,"a ""dog"", running\nfast"\r\n2.jpg,b\r\n'
            b"1.jpg,again \r\n\r\n3.jpg,\r\n",
            "4413cf54fffc79d93d26fcd31d286c36f65526515c88aeae1cc144ec6bc6d76d",
        ),
        (
            "captions.jsonl",
            b'{"image": "./1.jpg", "captions": ["a", "b"]}\n{"image": "./1.jpg", "caption": "c"}\n'
            b'{"path": "2.jpg", "title": "c"}\n',
            "24b623f19879dfb7370d3ebdd9fb329716175a75b6c476774344d13d4438df13",
        ),
    ],
)
def test_tables_that_were_read_before_are_the_same_list(tmp_path: Path, name: str, content: bytes, digest: str) -> None:
    """The digest that the first reader of tables gave; a run on such a table goes on."""
    (tmp_path / name).write_bytes(content)
    assert FolderPairs(tmp_path / name).fingerprint == digest
