"""Image files, folders and class names that a person gives to `silc predict`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from silc.commands.predictions import images_of, names_of
from silc.errors import BadInput

FILES = {
    "names.TXT": b"dog\ncat\n",
    "names": b"dog\r\ncat\r\n\r\n",
    "names.csv": b"\xef\xbb\xbfdog\ncat\n",
    "names.lst": b"  dog \n\n cat",
    "one-line.txt": b"dog, cat\n",
    "names.json": json.dumps(["dog", "cat"]).encode("utf-8-sig"),
    "a,b.names": b"dog\ncat\n",
}


@pytest.mark.parametrize("name", FILES)
def test_an_existing_file_is_a_file(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(FILES[name])
    assert names_of(str(tmp_path / name)) == ["dog", "cat"]


@pytest.mark.parametrize("given", ["dog,cat", " dog , cat ", "dog,\tcat", "dog\ncat\n", "\r\ndog\r\n\r\ncat"])
def test_a_list_is_a_list(given: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert names_of(given) == ["dog", "cat"]


def test_names_with_slashes_dots_and_commas(tmp_path: Path) -> None:
    assert names_of("car/truck, St. Bernard") == ["car/truck", "St. Bernard"]
    many = [f"class {number}" for number in range(500)]
    assert names_of(", ".join(many)) == many
    (tmp_path / "n.txt").write_text("tench, Tinca tinca\ngoldfish, Carassius auratus\n")
    assert names_of(str(tmp_path / "n.txt")) == ["tench, Tinca tinca", "goldfish, Carassius auratus"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("/data/classes", "/data/classes does not exist"),
        ("data/classes", "does not exist"),
        ("names.txt", "names.txt does not exist"),
        ("classes.JSON", "does not exist"),
        (r"C:\\data\\names", "does not exist"),
        ("dog, dog", "names the class 'dog' twice"),
        ("dog,cat,,cow", "class names are needed"),
        ("", "class names are needed"),
        (" ", "class names are needed"),
        (".", "is a folder"),
    ],
)
def test_what_names_nothing_is_told(given: str, message: str) -> None:
    with pytest.raises(BadInput, match=message) as caught:
        names_of(given)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("n.txt", "", "is empty"),
        ("n.txt", "dog\ncat\n dog\n", "'dog' twice"),
        ("n.json", '{"0": "dog"}', "must be a JSON list of names"),
        ("n.json", '["dog", 3]', "must be a JSON list of names"),
        ("n.json", "[", "is no JSON"),
        ("n.json", "[]", "class names are needed"),
        ("n.yaml", "- dog\n- cat\n", "is no .txt or .json file; give a .txt"),
        ("n.jsonl", '"dog"\n"cat"\n', "is no .txt or .json file; give a .txt"),
    ],
)
def test_files_without_names(tmp_path: Path, name: str, content: str, message: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(BadInput, match=message):
        names_of(str(tmp_path / name))


def test_images_in_folders_are_found_whatever_their_suffix_and_hidden_ones_are_not(tmp_path: Path) -> None:
    shown = ["a.JPG", "b/c.Webp", "b/d.gif", "b/e.jfif", "f.tif", "g.heic"]
    hidden = ["._a.JPG", ".cache/x.jpg", "__MACOSX/y.jpg", "b/.z.png", "notes.txt", "png"]
    for name in shown + hidden:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"II*\0" if name == "f.tif" else b"")
    for name in shown[:4]:
        Image.new("RGB", (4, 3)).save(tmp_path / name, "PNG")
    images = images_of([tmp_path, tmp_path / "b", tmp_path / "a.JPG"], "test")
    assert [str(file.relative_to(tmp_path)) for file in images.files] == sorted(shown)
    assert sum(len(batch) for batch in images.batches(3)) == 4
    assert [Path(each["file"]).name for each in images.unreadable] == ["f.tif", "g.heic"]
    assert "but a TIFF image; convert it" in images.unreadable[0]["why"]
