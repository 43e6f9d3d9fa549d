"""A kept index is the index; whatever else lies in the cache is as if it were not there."""

from __future__ import annotations

import hashlib
import json
import logging
import multiprocessing
import os
import pickle
import pwd
from dataclasses import astuple
from pathlib import Path

import numpy as np
import pytest

from silc.data import index_cache
from silc.data.config import DataConfig
from silc.data.index_cache import IndexCache, cache_folder
from silc.data.shards import ShardPairs
from silc.data.sources import open_pairs
from silc.data.tar import Members, ShardIndex, index_shard
from silc.errors import BadInput
from tests.data.conftest import labelled, sample, write_tar
from tests.data.test_tar import hostile


@pytest.fixture
def walks(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The shards that were walked, in order."""
    walked: list[Path] = []

    def index(path: Path, members: Members) -> ShardIndex:
        walked.append(path)
        return index_shard(path, members)

    monkeypatch.setattr(index_cache, "index_shard", index)
    return walked


def assert_same(a: ShardIndex, b: ShardIndex) -> None:
    for mine, theirs in zip(astuple(a), astuple(b), strict=True):
        assert np.array_equal(mine, theirs) if isinstance(mine, np.ndarray) else mine == theirs
    assert a.samples.dtype == b.samples.dtype
    assert [a.key(row) for row in range(len(a))] == [b.key(row) for row in range(len(b))]


def test_a_shard_is_walked_once(tmp_path: Path, shards: list[Path], walks: list[Path]) -> None:
    hostile(tmp_path / "hostile.tar", tmp_path / "canary")
    (tmp_path / "cut.tar").write_bytes(shards[2].read_bytes()[:9000])
    every = [*shards, tmp_path / "hostile.tar", tmp_path / "cut.tar"]
    for _ in range(3):
        cache = IndexCache(tmp_path / "cache")
        for path in every:
            assert_same(cache(path), index_shard(path))
    assert walks == every
    assert len(list((tmp_path / "cache").iterdir())) == len(every)
    pairs, plain = ShardPairs(every, index=IndexCache(tmp_path / "cache")), ShardPairs(every)
    assert pairs.fingerprint == plain.fingerprint
    assert pairs.faults == plain.faults
    assert walks == every


def test_a_changed_shard_is_walked_again(tmp_path: Path, walks: list[Path]) -> None:
    path, cache = write_tar(tmp_path / "a.tar", sample(0)), IndexCache(tmp_path / "cache")
    assert len(cache(path)) == 1
    write_tar(path, sample(0) + sample(1))
    assert len(cache(path)) == 2
    os.utime(path, ns=(1, path.stat().st_mtime_ns + 1))
    assert len(cache(path)) == 2
    assert len(walks) == 3
    path.rename(tmp_path / "b.tar")
    assert cache(tmp_path / "b.tar").path.name == "b.tar"
    with pytest.raises(BadInput, match="cannot be read"):
        cache(path)


def test_an_index_of_older_rules_is_made_anew(
    tmp_path: Path, walks: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, cache = write_tar(tmp_path / "a.tar", sample(0)), IndexCache(tmp_path / "cache")
    assert index_cache.VERSION > 1
    monkeypatch.setattr(index_cache, "VERSION", index_cache.VERSION - 1)
    cache(path)
    monkeypatch.undo()
    monkeypatch.setattr(index_cache, "index_shard", lambda path, _: walks.append(path) or index_shard(path))
    cache(path)
    cache(path)
    assert walks == [path, path]


def test_each_kind_of_sample_has_an_index_of_its_own(tmp_path: Path, walks: list[Path]) -> None:
    """And that of pairs is where it was, and as it was, before there were others."""
    path, cache = write_tar(tmp_path / "a.tar", labelled(0) + sample(1)), IndexCache(tmp_path / "cache")
    kinds = [
        Members(must=("seg.png",)),
        Members(must=("json",)),
        Members(may=("json",)),
        Members(("seg.png",), ("json",)),
    ]
    cache(path)
    (file,) = (tmp_path / "cache").iterdir()
    assert file.stem == hashlib.sha256(str(path).encode()).hexdigest()[:32]
    with np.load(file) as stored:
        assert set(json.loads(stored["about"].tobytes())) == OLD_FIELDS
        assert stored["samples"].size == 2 * 37
    for _ in range(2):
        assert_same(cache(path), index_shard(path))
        for kind in kinds:
            assert_same(cache(path, kind), index_shard(path, kind))
    assert len(walks) == len(list((tmp_path / "cache").iterdir())) == 1 + len(kinds)


OLD_FIELDS = {"version", "path", "size", "mtime_ns", "ignored", "damage", "contents"}


def test_relative_paths_mean_the_folder_they_were_used_in(
    tmp_path: Path, walks: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, number in (("x", 0), ("y", 1)):
        (tmp_path / name).mkdir()
        write_tar(tmp_path / name / "a.tar", sample(number))
        monkeypatch.chdir(tmp_path / name)
        assert IndexCache(tmp_path / "cache")(Path("a.tar")).key(0) == f"{number:05d}"


def test_a_damaged_cache_is_ignored_and_made_again(tmp_path: Path, walks: list[Path]) -> None:
    """Every 7th byte flipped in turn, cuts, and files that are something else."""
    path, cache = write_tar(tmp_path / "a.tar", sample(0) + sample(1)), IndexCache(tmp_path / "cache")
    expected = cache(path)
    (file,) = (tmp_path / "cache").iterdir()
    good = file.read_bytes()
    damaged = [good[:end] for end in range(0, len(good), 97)]
    for place in range(0, len(good), 7):
        flipped = bytearray(good)
        flipped[place] ^= 0x10
        damaged.append(bytes(flipped))
    damaged += [b"<html>", pickle.dumps(expected), os.urandom(3000)]
    used = 0
    for content in damaged:
        file.write_bytes(content)
        walks.clear()
        assert_same(cache(path), expected)
        used += not walks  # a flipped bit may lie in a time stamp of the archive, which says nothing
        assert not walks or file.read_bytes() == good or _same_arrays(file, good, tmp_path)
    assert used < len(damaged) / 4


def _same_arrays(file: Path, good: bytes, tmp_path: Path) -> bool:
    (tmp_path / "good.npz").write_bytes(good)
    with np.load(file) as a, np.load(tmp_path / "good.npz") as b:
        return all(np.array_equal(a[name], b[name]) for name in b)


class Evil:
    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.canary),)


def test_a_cache_with_objects_runs_nothing(tmp_path: Path) -> None:
    path, cache = write_tar(tmp_path / "a.tar", sample(0)), IndexCache(tmp_path / "cache")
    cache(path)
    (file,) = (tmp_path / "cache").iterdir()
    evil = np.array([Evil(tmp_path / "canary")], dtype=object)
    for names in (("samples",), ("about",)):
        with np.load(file) as stored:
            arrays = dict(stored) | dict.fromkeys(names, evil)
        np.savez(file, **arrays)
        assert len(cache(path)) == 1
        assert not (tmp_path / "canary").exists()
    np.savez(file, samples=evil)
    with np.load(file, allow_pickle=True) as stored:
        stored["samples"]  # one who allows it runs it
    assert (tmp_path / "canary").exists()


def test_without_a_folder_to_write_it_works_and_says_so_once(
    tmp_path: Path, shards: list[Path], caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    for speaks in (False, True):
        cache = IndexCache(tmp_path / "file" / "cache", speaks=speaks)
        assert [len(cache(path)) for path in shards] == [7, 3, 9, 5, 11]
    assert caplog.text.count("cannot be written") == 1


def _indexed(folder: str, paths: list[Path]) -> str:
    return ShardPairs(paths, index=IndexCache(Path(folder))).fingerprint


def test_many_processes_at_once(tmp_path: Path, shards: list[Path]) -> None:
    with multiprocessing.get_context("forkserver").Pool(3) as pool:
        found = pool.starmap(_indexed, [(str(tmp_path / "cache"), shards)] * 9)
    assert set(found) == {ShardPairs(shards).fingerprint}
    assert all(file.suffix == ".npz" for file in (tmp_path / "cache").iterdir())  # nothing partial is left
    assert len(list((tmp_path / "cache").iterdir())) == len(shards)


def test_where_it_is(tmp_path: Path, shards: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user"))
    assert cache_folder("") == tmp_path / "user" / "silc" / "index"
    assert cache_folder("off") is None
    pattern = str(shards[0].with_name("*.tar"))
    open_pairs(DataConfig(train=pattern, index_cache="off"), seed=0)
    assert not (tmp_path / "user").exists()
    open_pairs(DataConfig(train=pattern), seed=0)
    assert len(list((tmp_path / "user" / "silc" / "index").iterdir())) == 5
    open_pairs(DataConfig(train=pattern, index_cache=str(tmp_path / "own")), seed=0)
    assert len(list((tmp_path / "own").iterdir())) == 5
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache_folder("") == tmp_path / "home" / ".cache" / "silc" / "index"


@pytest.fixture(autouse=True)
def _warnings(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)


def test_a_user_without_a_home_has_no_cache_and_needs_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As in containers that run under any number: no HOME, no entry in passwd."""

    def unknown(_: object) -> None:
        raise KeyError("uid not found")

    for name in ("HOME", "XDG_CACHE_HOME", "USER", "LOGNAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    monkeypatch.setattr(pwd, "getpwnam", unknown)
    monkeypatch.chdir(tmp_path)
    assert cache_folder("") is None
    assert cache_folder("", "shards") is None
    assert cache_folder(str(tmp_path)) == tmp_path
    assert cache_folder("~/cache") == Path("~/cache")
    for given in ("~/x.tar", "~nobody9/{0..3}.tar", "~"):
        with pytest.raises(BadInput, match=r"does not exist|directory"):
            open_pairs(DataConfig(train=given), seed=0)
    write_tar(tmp_path / "0.tar", sample(0))
    assert len(open_pairs(DataConfig(train="0.tar"), seed=0)) == 1
    monkeypatch.setenv("XDG_CACHE_HOME", "/elsewhere")
    assert cache_folder("") == Path("/elsewhere/silc/index")
