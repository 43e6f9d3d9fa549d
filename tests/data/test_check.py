"""What the check says of planted data, on the page, as numbers, and as an exit code."""

from __future__ import annotations

import ast
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from silc import images
from silc.cli import main
from silc.data import pairs
from silc.data.check import MEANINGS, check, summary
from silc.data.pairs import FAULTS
from silc.data.scenes import ScenePairs
from silc.data.shards import ShardPairs
from tests.data.conftest import encoded, photo, sample, write_tar

pytestmark = pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")


class Strict(HTMLParser):
    """Elements that are closed in order; what they load; their text."""

    VOID = ("meta", "link", "img", "br", "path", "use", "rect")

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.sources: list[str] = []
        self.text = ""
        self.feed(page)
        assert not self.open

    def handle_starttag(self, tag: str, attributes: Any) -> None:
        assert tag != "script"
        self.sources += [value for name, value in attributes if name in ("src", "href", "xlink:href")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attributes: Any) -> None:
        self.sources += [value for name, value in attributes if name in ("src", "href", "xlink:href")]

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def page_of(out: Path) -> Strict:
    page = Strict((out / "report.html").read_text())
    assert all(re.match(r"data:|#", source) for source in page.sources)  # it loads nothing
    return page


@pytest.mark.parametrize("workers", ["0", "2"])
def test_planted_faults(corpus: Any, workers: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths, truth = corpus
    out = tmp_path / "out"
    assert main(["data", "check", str(paths[0].with_name("*.tar")), "--out", str(out), "--workers", workers]) == 0
    numbers = json.loads((out / "check.json").read_text())
    assert numbers["causes"] == Counter(cause for _, _, cause in truth)
    assert (numbers["samples"], numbers["checked"], numbers["usable"], numbers["broken"]) == (160, 160, 152, 8)
    listed = [json.loads(line) for line in (out / "quarantine.jsonl").read_text().splitlines()]
    assert {(entry["shard"], entry["key"], entry["cause"]) for entry in listed} == truth
    said = capsys.readouterr().out
    assert "152 of 160 samples can be used" in said
    assert "no_image 2" in said
    page = page_of(out)
    for _, _, cause in truth:
        assert cause in page.text
        assert MEANINGS[cause] in page.text
    assert len([source for source in page.sources if source.startswith("data:image")]) == 24


def test_what_became_of_members_and_rows_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    members = [
        *sample(0),
        ("00000.cls", b"3"),
        ("00000.npy", b""),
        ("1.cls", b"3"),
        ("._x.jpg", b""),
        ("../x.jpg", b""),
    ]
    write_tar(tmp_path / "a.tar", members)
    (tmp_path / "captions.csv").write_text("image,caption\n1.png,a\n1.png,b\n2.png,c,d\n")
    (tmp_path / "1.png").write_bytes(encoded(photo(1), "PNG"))
    for data, said, contents in (
        ("a.tar", "2 members in samples, 2 .cls, 1 .npy, 1 hidden, 1 ignored", {".cls": 2, "ignored": 1}),
        ("captions.csv", "3 rows of 2 images", {"rows": 3}),
    ):
        assert main(["data", "check", str(tmp_path / data), "--out", str(tmp_path / "out"), "--workers", "0"]) == 0
        assert f"found: {said}" in capsys.readouterr().out
        assert contents.items() <= json.loads((tmp_path / "out" / "check.json").read_text())["contents"].items()
        assert said in page_of(tmp_path / "out").text


def words(nodes: Iterable[ast.AST]) -> set[str]:
    values = [node.value for node in nodes if isinstance(node, ast.Constant)]
    return {value for value in values if isinstance(value, str) and re.fullmatch("[a-z_]+", value)}


def test_every_cause_has_a_meaning() -> None:
    """Causes are the words of this form that the code gives to whatever tells of a broken sample."""
    given = set(FAULTS)
    for file in (*Path(pairs.__file__).parent.glob("*.py"), Path(images.__file__)):
        for node in ast.walk(ast.parse(file.read_text())):
            called = ast.unparse(node.func).rpartition(".")[2] if isinstance(node, ast.Call) else ""
            if called in ("bad", "_bad", "BadImage", "NoCaption", "Broken"):
                given |= words(node.args)
            if isinstance(node, ast.FunctionDef) and node.name == "_refused":
                given |= words(one for part in ast.walk(node) if isinstance(part, ast.Tuple) for one in part.elts)
    assert given == set(MEANINGS)


def test_numbers_are_those_of_a_plain_count(tmp_path: Path) -> None:
    sizes = [(40, 30), (30, 40), (100, 20), (64, 64), (64, 64)]
    captions = [["a b c"], ["a", "b c"], ["a b c d e", "a", "a"], ["one"], ["two"]]
    members = []
    for number, (size, own) in enumerate(zip(sizes, captions, strict=True)):
        members += [(f"{number}.png", encoded(photo(number, size), "PNG"))]
        members += [(f"{number}.json", json.dumps({"captions": own}).encode())]
    numbers = summary(check(ShardPairs([write_tar(tmp_path / "a.tar", members)])))
    shorter, words = [30, 30, 20, 64, 64], [3, 1, 2, 5, 1, 1, 1, 1]
    for name, values in (
        ("shorter_side", shorter),
        ("words_per_caption", words),
        ("captions_per_image", [1, 2, 3, 1, 1]),
        ("aspect", [40 / 30, 30 / 40, 5, 1, 1]),
    ):
        assert numbers[name]["mean"] == pytest.approx(sum(values) / len(values), abs=1e-3)
        assert (numbers[name]["min"], numbers[name]["max"]) == pytest.approx((min(values), max(values)))
        assert numbers[name]["median"] == pytest.approx(sorted(values)[len(values) // 2], abs=0.5 * (name[0] == "w"))
    assert numbers["captions"] == 8
    assert numbers["duplicates"] == {"keys": 0, "images": 0, "captions": 2}  # "a" three times


def test_duplicates_across_shards(tmp_path: Path) -> None:
    """The same pixels in another encoding, the same key in another shard, the same words."""
    image = photo(0)
    twice = [("x.png", encoded(image, "PNG")), ("x.txt", b"same words"), *sample(3)]
    other = [
        ("y.bmp.png", b""),
        ("y.png", encoded(image, "PNG", compress_level=0)),
        ("y.txt", b"same words"),
        *sample(3),
    ]
    pairs = ShardPairs([write_tar(tmp_path / "a.tar", twice), write_tar(tmp_path / "b.tar", other)])
    found = check(pairs)
    assert summary(found)["duplicates"] == {"keys": 1, "images": 2, "captions": 3}
    assert found.keys.examples() == [(2, ["00003", "00003"])]
    assert (2, ["x", "y"]) in found.images.examples()
    assert (2, ["same words", "same words"]) in found.captions.examples()


def test_a_part_is_spread_evenly() -> None:
    pairs = ScenePairs(1000, 16, 0)
    found = check(pairs, limit=10)
    assert (found.num_samples, found.num_checked) == (1000, 10)
    assert check(pairs, limit=5000).num_checked == 1000
    assert np.array(found.widths).tolist() == [16] * 10


def test_words_of_strangers_stay_words(tmp_path: Path) -> None:
    """Captions and names are shown, not run; half a character is no reason to fail."""
    evil = '<script>alert(1)</script> & "quotes"'
    members = [(f"{evil[:8]}{i}.{part}", data) for i in range(3) for part, data in (
        ("jpg", encoded(photo(i))), ("json", json.dumps({"caption": evil + " \ud800"}).encode()))]  # fmt: skip
    members += [("b\udcff.jpg", b"x"), ("b\udcff.txt", b"a")]
    path = write_tar(tmp_path / "a.tar", members)
    assert main(["data", "check", str(path), "--out", str(tmp_path / "out"), "--workers", "0"]) == 0
    page = page_of(tmp_path / "out")
    assert evil in page.text


def test_a_folder_is_checked_too(tmp_path: Path) -> None:
    (tmp_path / "1.jpg").write_bytes(encoded(photo(1)))
    (tmp_path / "captions.csv").write_text("image,caption\n1.jpg,a photo\n../2.jpg,another\n")
    assert main(["data", "check", str(tmp_path), "--out", str(tmp_path / "out"), "--workers", "0"]) == 0
    assert json.loads((tmp_path / "out" / "check.json").read_text())["causes"] == {"unsafe_path": 1}


def test_nothing_usable_is_two(shard: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = shard([("1.jpg", b"<html>"), ("1.txt", b"a"), ("2.jpg", b""), ("2.txt", b"a")])
    assert main(["data", "check", str(path), "--out", str(tmp_path / "out"), "--workers", "0"]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "none of 2 samples can be used (no_image 1, empty_image 1)" in said
    assert "no_image" in page_of(tmp_path / "out").text


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["check", "/nonexistent/a.tar"], "does not exist"),
        (["chekc"], "unknown command 'data chekc'; did you mean 'check'?"),
        (["check", "x.tar", "--workers", "-1"], "--workers is -1; needed a whole number at least 0"),
        (["check"], "required"),
    ],
)
def test_bad_input_is_two(args: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", *args]) == 2
    assert message in capsys.readouterr().err
