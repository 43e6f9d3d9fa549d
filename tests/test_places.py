"""Every command tries every place to write before its work: one line, exit code 2, nothing loaded and nothing made."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from silc import checks, places
from silc.cli import main
from silc.commands import predictions
from silc.errors import BadInput

LONG = "x" * 300


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder to work in: `file`, `folder/`, a model's directory, an image; loading a model there is an error."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "mine").write_text("mine")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "silc.json").write_text("{}")
    (tmp_path / "broken").symlink_to("nowhere")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "photo.jpg").write_bytes(b"")
    (tmp_path / "data" / "classification" / "set" / "test" / "a").mkdir(parents=True)
    (tmp_path / "data" / "classification" / "set" / "classes.txt").write_text("a\n")
    before = sorted(tmp_path.rglob("*"))
    yield tmp_path
    assert sorted(tmp_path.rglob("*")) == before, "something was left behind"
    assert (tmp_path / "file").read_text() == "mine"


FILES: dict[str, Callable[[str], list[str]]] = {
    "eval": lambda out: ["eval", "model", "--root", "data", "--out", out],
    "eval --table": lambda out: ["eval", "model", "--root", "data", "--table", "main", "--out", out],
    "predict classify": lambda out: ["predict", "classify", "model", "photo.jpg", "--names", "a,b", "--out", out],
    "predict embed": lambda out: ["predict", "embed", "model", "photo.jpg", "--out", out],
    "plan": lambda out: ["plan", "clip-tiny", "--gpus", "1", "--json", out],
    "bench --out": lambda out: ["bench", "start", "--out", out],
    "bench --profile": lambda out: ["bench", "step", "--profile", out],
}
FOLDERS: dict[str, Callable[[str], list[str]]] = {
    "train": lambda out: ["train", "clip-tiny", "--out", out],
    "finetune": lambda out: ["finetune", "--init", "model", "--out", out],
    "eval --cache": lambda out: ["eval", "model", "--root", "data", "--cache", out],
    "predict segment": lambda out: ["predict", "segment", "model", "photo.jpg", "--names", "a,b", "--out", out],
    "import": lambda out: ["import", "model", out],
    "export": lambda out: ["export", "model", out],
    "data check": lambda out: ["data", "check", "data/*.tar", "--out", out],
    "data prepare": lambda out: ["data", "prepare", "pc459", "--root", "data", "--out", out],
    "demo": lambda out: ["demo", "--out", out],
}
BAD = {
    "below a file": "file/deep/x",
    "below a broken link": "broken/x",
    "a broken link": "broken",
    "a link to itself": "loop",
    "a name too long": f"folder/{LONG}",
    "a long name in a folder to be made": f"new/{LONG}/x",
    "a path too long": "/".join(["y" * 200] * 30),
    "a null byte": "folder/a\0b",
    "a place that is no disk": "/proc/silc/x",
    "an address": "s3://bucket/x",
}
"""Places that are neither a file's nor a folder's."""
CASES = [
    *((command, args, what, bad) for command, args in {**FILES, **FOLDERS}.items() for what, bad in BAD.items()),
    *((command, args, "a folder where a file is meant", "folder") for command, args in FILES.items()),
    *((command, args, "a folder by its slash", "new/") for command, args in FILES.items()),
    *((command, args, "a file where a folder is meant", "file") for command, args in FOLDERS.items()),
]


def refused(args: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """What a command said on stderr: one line, and nothing on stdout, where it says what it begins."""
    assert main(args) == 2
    said = capsys.readouterr()
    assert said.err.startswith("silc: ")
    assert said.err.count("\n") == 1, said.err
    assert not said.out, "it began before it tried"
    return said.err


@pytest.mark.parametrize(("command", "args", "what", "bad"), CASES, ids=[f"{c}: {w}" for c, _, w, _ in CASES])
def test_a_bad_place_is_refused_before_the_work(
    command: str,
    args: Callable[[str], list[str]],
    what: str,
    bad: str,
    here: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if command == "predict embed" and bad != "new/":
        bad += "" if what.startswith(("a folder", "a broken", "a link")) else ".npy"
    refused(args(bad), capsys)


@pytest.mark.parametrize("args", [*FILES.values(), *FOLDERS.values()], ids=[*FILES, *FOLDERS])
@pytest.mark.parametrize("error", [errno.EROFS, errno.EACCES, errno.ENOSPC, errno.EDQUOT])
def test_a_locked_or_full_place_is_refused_before_the_work(
    error: int,
    args: Callable[[str], list[str]],
    here: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """By what the system answers to a try: a look at permissions tells root nothing."""

    def refuse(*args: object, **options: object) -> None:
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr(places.tempfile, "TemporaryFile", refuse)
    assert os.strerror(error) in refused(args("new.npy"), capsys)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission_is_refused(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "folder").chmod(0o500)
    for args in FILES.values():
        assert "Permission denied" in refused(args("folder/x.npy"), capsys)
    (here / "folder").chmod(0o700)


def test_what_is_written_beside_is_tried_too(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("x.html", "y.segmentations.png", "z.json", "t.table-main.md"):
        (here / "folder" / name).mkdir()
    try:
        assert "x.html is a folder" in refused(FILES["eval"]("folder/x.json"), capsys)
        assert "y.segmentations.png is a folder" in refused(FILES["eval"]("folder/y.json"), capsys)
        assert "z.json is a folder" in refused(FILES["predict embed"]("folder/z.npy"), capsys)
        assert "t.table-main.md is a folder" in refused(FILES["eval --table"]("folder/t.json"), capsys)
        assert "give FILE.json" in refused(FILES["eval"]("folder/w.html"), capsys)
    finally:
        for name in ("x.html", "y.segmentations.png", "z.json", "t.table-main.md"):
            (here / "folder" / name).rmdir()


@pytest.mark.parametrize(
    "error",
    [
        FileNotFoundError(errno.ENOENT, "No such file or directory", "gone/x"),
        IsADirectoryError(errno.EISDIR, "Is a directory", b"a/folder"),
        NotADirectoryError(errno.ENOTDIR, "Not a directory", "file/x"),
        OSError(errno.ENAMETOOLONG, "File name too long", LONG),
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EIO, "Input/output error"),
        OSError(errno.ESTALE, "Stale file handle", "nfs/x"),
    ],
    ids=str,
)
def test_an_error_of_the_file_system_during_the_work_is_one_line(
    error: OSError, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(args: list[str]) -> int:
        raise error

    monkeypatch.setattr("silc.cli._dispatch", fail)
    assert main(["train"]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert str(error.strerror) in said
    assert "what was finished before is intact" in said


def test_an_error_of_no_file_is_a_bug_and_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(args: list[str]) -> int:
        raise OSError("libcudart.so: cannot open shared object file")

    monkeypatch.setattr("silc.cli._dispatch", fail)
    with pytest.raises(OSError, match="libcudart"):
        main(["train"])


def test_what_can_be_written_is_left_as_it_is(here: Path) -> None:
    assert places.file("file") == Path("file")
    assert places.file("~/scores.json") == here / "home" / "scores.json"
    assert places.folder("folder/new/deep") == Path("folder/new/deep")
    assert places.file(os.devnull) == Path(os.devnull)
    os.mkfifo(here / "pipe")
    try:
        with pytest.raises(BadInput, match="a pipe that nobody reads"):
            places.file("pipe")
    finally:
        (here / "pipe").unlink()


def test_pages_are_named_after_their_scores(tmp_path: Path) -> None:
    first, second = (checks.result_files(["hf:a/b"], tmp_path / name) for name in ("a.json", "b.json"))
    assert not {first.page, first.pictures} & {second.page, second.pictures}
    assert (first.page.name, first.pictures.name) == ("a.html", "a.segmentations.png")
    plain = checks.result_files([tmp_path], None)
    assert (plain.scores[0].name, plain.page.name) == ("scores.json", "report.html")
    assert plain == checks.result_files([tmp_path], tmp_path / "scores.json")


def test_what_was_not_named_replaces_nobodys_file(tmp_path: Path) -> None:
    """Files beside --out are ours only where --out itself is there from before."""
    for mine in ("labels.json", "notes.html", "maps.segmentations.png"):
        (tmp_path / mine).write_text("mine")
    for write in (
        lambda: predictions.place_of("embed", str(tmp_path / "labels.npy")),
        lambda: checks.result_files(["hf:a/b"], tmp_path / "notes.json"),
        lambda: checks.result_files(["hf:a/b"], tmp_path / "maps.json"),
    ):
        with pytest.raises(BadInput, match=r"exists without .* and would be replaced; move it or give another --out"):
            write()
    (tmp_path / "labels.npy").write_bytes(b"")
    assert predictions.place_of("embed", str(tmp_path / "labels.npy")) == tmp_path / "labels.npy"


def test_no_image_is_replaced_by_what_is_said_of_it(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for out in ("photo.jpg", "./folder/../photo.jpg"):
        assert main(["predict", "classify", "model", "photo.jpg", "--names", "a,b", "--out", out]) == 2
        assert "is one of the images and would be replaced" in capsys.readouterr().err
