"""Shards at addresses, from a real nginx: rows are those of local shards, and one that is not there costs itself."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from scripts import nginx
from scripts.nginx import Nginx
from silc import cli
from silc.curate import pictures
from silc.data import remote
from silc.data.config import DataConfig
from silc.data.remote import RemoteFile
from silc.data.sources import open_pairs
from silc.data.uids import uid_of
from tests.data.test_chosen import save

pq = pytest.importorskip("pyarrow.parquet")
pytest.importorskip("duckdb")
pytest.importorskip("py3langid")


@pytest.fixture
def server(tmp_path: Path, shards: list[Path], monkeypatch: pytest.MonkeyPatch) -> Iterator[Nginx]:
    if absent := nginx.missing():
        pytest.skip(absent)
    monkeypatch.setattr(remote, "FIRST_PAUSE", 0.01)
    for folder in ("served", "nginx"):
        (tmp_path / folder).mkdir()
    for path in shards[:2]:
        (tmp_path / "served" / path.name).symlink_to(path)
    with Nginx(tmp_path / "nginx", tmp_path / "served") as server:
        yield server


def score(shards: str, out: Path) -> int:
    return cli.main(["data", "score", shards, "--out", str(out)])


def test_rows_are_those_of_local_shards(
    server: Nginx, shards: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With a shard between them that is not there; another place of the same name is not taken for done."""
    there = server.url("plain", "{00000,00009,00001}.tar")
    assert score(there, tmp_path / "far") == 2
    assert "00009.tar" in capsys.readouterr().err
    assert score(f"{shards[0]}::{shards[1]}", tmp_path / "near") == 0
    for name in ("00000.parquet", "00001.parquet"):
        far, near = (pq.read_table(tmp_path / folder / name).to_pylist() for folder in ("far", "near"))
        assert far == near
    assert score(server.url("plain", "{00000..00001}.tar"), tmp_path / "far") == 0
    assert "2 of 2 shards are scored already" in capsys.readouterr().out
    assert score(str(shards[0]), tmp_path / "far") == 2
    assert "has the scores of another shard" in capsys.readouterr().err


def test_a_page_does_without_a_server_that_is_gone(
    server: Nginx, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert score(server.url("plain", "00000.tar"), tmp_path / "far") == 0
    monkeypatch.setattr(pictures, "PATIENCE", 0.1)
    choose = ["data", "select", str(tmp_path / "far"), "--keep", "chars > 0", "--out", str(tmp_path / "s.npy")]
    assert cli.main(choose) == 0
    assert "data:image/webp" in (tmp_path / "s.html").read_text()
    server.stop()
    assert cli.main(choose) == 0
    assert "the shard is missing" in (tmp_path / "s.html").read_text()


def test_captions_of_a_subset_are_asked_for_ahead(
    server: Nginx, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    subset = save(tmp_path / "s.npy", [uid_of({}, "00000.tar", f"{number:05d}") for number in range(5)])
    pairs = open_pairs(DataConfig(train=server.url("plain", "00000.tar"), subset=str(subset)), seed=0)
    done: list[str] = []
    for name in ("ask", "read"):
        called = getattr(RemoteFile, name)
        monkeypatch.setattr(
            RemoteFile, name, lambda *args, name=name, called=called: done.append(name) or called(*args)
        )
    assert len(list(pairs.captions(10))) == 10
    assert done[:5] == ["ask"] * 5
