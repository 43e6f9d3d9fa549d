"""What has no end is refused in one line, wherever a file is named; nobody waits for it."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from silc import cli
from silc import config as configs
from silc.commands.predictions import images_of
from silc.data.config import DataConfig
from silc.data.folder import FolderPairs
from silc.data.pairs import BadSample
from silc.data.sources import open_pairs
from silc.data.tokenizer import BPETokenizer
from silc.errors import BadInput
from silc.eval.files import lines_of, read_image, read_label
from silc.eval.layouts.webdataset import Member
from silc.interop.files import read_json, read_safetensors


@pytest.fixture(autouse=True)
def _in_time() -> Iterator[None]:
    """A read that waits is cut off."""
    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    signal.alarm(20)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def pipe(path: Path) -> None:
    os.mkfifo(path)


def zeros(path: Path) -> None:
    path.symlink_to("/dev/zero")


def folder(path: Path) -> None:
    path.mkdir()


def a_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(str(path))


KINDS = (pipe, zeros, folder, a_socket)
READERS: dict[str, tuple[str, Callable[[Path], object]]] = {
    "configuration": ("config.yaml", configs.load),
    "names": ("names.txt", lines_of),
    "image": ("x.jpg", read_image),
    "label": ("x.png", read_label),
    "JSON": ("x.json", read_json),
    "weights": ("x.safetensors", read_safetensors),
    "tokenizer": ("tokenizer.json", lambda path: BPETokenizer.load(path, 8)),
    "shard": ("0.tar", lambda path: open_pairs(DataConfig(train=str(path), index_cache="off"), seed=0)),
    "table": ("captions.jsonl", lambda path: open_pairs(DataConfig(train=str(path), index_cache="off"), seed=0)),
}


@pytest.mark.parametrize("make", KINDS)
@pytest.mark.parametrize(("name", "read"), READERS.values(), ids=READERS)
def test_it_is_refused(
    name: str,
    read: Callable[[Path], object],
    make: Callable[[Path], None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)  # a socket's name is short
    make(Path(name))
    with pytest.raises(BadInput) as told:
        read(Path(name))
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("make", KINDS)
def test_commands_refuse_it(
    make: Callable[[Path], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    make(Path("x.yaml"))
    make(Path("x.tar"))
    for command in (["train", "x.yaml", "--out", "run"], ["data", "check", "x.tar"], ["data", "check", "*.tar"]):
        assert cli.main(command) == 2
        assert len(capsys.readouterr().err.splitlines()) == 1


@pytest.mark.parametrize("make", [pipe, zeros, a_socket])
def test_among_others_it_is_a_broken_sample(
    make: Callable[[Path], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    make(Path("x.jpg"))
    Path("captions.jsonl").write_text('{"file_name": "x.jpg", "caption": "a dog"}\n')
    with pytest.raises(BadSample):
        FolderPairs(Path("captions.jsonl"))[0]
    with pytest.raises(BadInput):
        read_image(images_of(["."], "reading").files[0])


def test_a_member_of_a_pipe(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "0.tar")
    with pytest.raises(OSError, match="needed a file"):
        Member(tmp_path / "0.tar", 0, 10).read()
