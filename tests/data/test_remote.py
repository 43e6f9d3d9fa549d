"""Shards at addresses, from a real nginx that is slow, busy, cuts connections or is gone: what comes out is what local
files give, in their order, or one clear line."""

from __future__ import annotations

import logging
import os
import random
import re
import shlex
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from scripts import nginx
from scripts.nginx import CuttingProxy, Nginx
from silc import cli
from silc.batch import Batch
from silc.commands.flags import configured
from silc.config import Config
from silc.data import remote
from silc.data.config import DataConfig
from silc.data.index_cache import IndexCache
from silc.data.pairs import BadSample, Pair
from silc.data.remote import Remote, RemoteFault, RemoteFile, Unreachable, split_joined, without_secrets
from silc.data.shards import ShardPairs
from silc.data.sources import expand, open_pairs
from silc.data.span_cache import SpanCache
from silc.data.split import Subset
from silc.errors import BadInput
from silc.pretraining import run
from tests.data.conftest import sample, write_tar
from tests.data.test_loader import assert_equal, loader

FIVE, CORPUS = "{00000..00004}.tar", "{0..3}.tar"


@pytest.fixture(scope="module")
def server(
    tmp_path_factory: pytest.TempPathFactory,
    shards: list[Path],
    corpus: tuple[list[Path], set[tuple[str, str, str]]],
) -> Iterator[Nginx]:
    """nginx over the five good shards, and the four with broken samples and a cut."""
    if absent := nginx.missing():
        pytest.skip(absent)
    folder = tmp_path_factory.mktemp("served")
    for path in [*shards, *corpus[0]]:
        (folder / path.name).symlink_to(path)
    with Nginx(tmp_path_factory.mktemp("nginx"), folder) as server:
        yield server


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "FIRST_PAUSE", 0.01)
    monkeypatch.setattr(remote, "LONGEST_PAUSE", 0.2)


def far(address: str, *, patience: float = 30.0, cache: SpanCache | None = None) -> ShardPairs:
    return ShardPairs(expand(address, Remote(patience=patience, cache=cache)))


def assert_same(pair: Pair, other: Pair) -> None:
    assert (pair.key, pair.captions) == (other.key, other.captions)
    assert pair.pixels.tobytes() == other.pixels.tobytes()


def without_folders(batches: list[Batch]) -> list[Batch]:
    """What is broken, by the name of its shard alone."""
    return [
        replace(batch, broken=[entry._replace(shard=Path(entry.shard).name) for entry in batch.broken])
        for batch in batches
    ]


@pytest.mark.parametrize("kind", ["plain", "slow", "busy", "cut", "bad", "limited", "moved"])
def test_samples_are_those_of_local_files(server: Nginx, shards: list[Path], kind: str) -> None:
    before = len(server.requests())
    local, there = ShardPairs(shards), far(server.url(kind, FIVE))
    assert there.fingerprint == local.fingerprint
    assert np.array_equal(there.blocks, local.blocks)
    for index in range(len(local)):
        assert_same(there[index], local[index])
    assert list(there.captions(20)) == list(local.captions(20))
    statuses = {status for status, *_ in server.requests()[before:]}
    wanted = {"busy": {503}, "cut": {444}, "bad": {503, 444}, "limited": {429}, "moved": {302}}.get(kind, set())
    assert statuses == {206} | wanted


@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    ("kind", "workers", "ranks"),
    [("plain", 0, 2), ("plain", 2, 1), ("bad", 0, 1), ("bad", 1, 1), ("bad", 2, 2), ("half", 0, 2), ("half", 2, 1)],
)
def test_batches_are_those_of_local_files(
    server: Nginx, corpus: tuple[list[Path], set[tuple[str, str, str]]], kind: str, workers: int, ranks: int
) -> None:
    """Broken samples and a cut shard among them; `half` closes connections in the middle of an answer."""
    proxy = CuttingProxy(server.port)
    try:
        address = server.url("plain", CORPUS, port=proxy.port) if kind == "half" else server.url(kind, CORPUS)
        there, local = far(address), ShardPairs(corpus[0])
        for rank in range(ranks):
            share = {"rank": rank, "world_size": ranks}
            expected = without_folders(list(loader(local, **share).batches(0, 12)))
            found = without_folders(list(loader(there, workers=workers, **share).batches(0, 12)))
            assert_equal(found, expected)
            assert any(batch.broken for batch in found)
        assert_same(there[5], local[5])  # this process's own connections are as they were before the workers'
        assert kind != "half" or proxy.cuts > 3
    finally:
        proxy.close()


def test_held_out_pairs_and_stand_ins(server: Nginx, shards: list[Path]) -> None:
    held_out = np.array([1, 5, 30])
    there, local = far(server.url("plain", FIVE)), ShardPairs(shards)
    expected = list(loader(Subset(local, held_out)).batches(0, 4))
    assert_equal(list(loader(Subset(there, held_out), workers=1).batches(0, 4)), expected)


def test_a_sample_is_one_request_and_no_byte_comes_twice(server: Nginx, shards: list[Path]) -> None:
    there = far(server.url("plain", FIVE))
    before = len(server.requests())
    there.read_ahead(range(35))
    assert sum(len(file._asked) for file in map(_file, there.shards)) == 35  # all of them are under way
    for index in range(35):
        there[index]
    requests = server.requests()[before:]
    assert [(status, method) for status, _, method, _ in requests] == [(206, "GET")] * 35
    assert sum(size for _, size, *_ in requests) < sum(path.stat().st_size for path in shards)
    assert not any(file._asked for file in map(_file, there.shards))
    list(there.captions(35))
    captions = server.requests()[before + 35 :]
    assert len(captions) == 35
    assert max(size for _, size, *_ in captions) < 100  # no image with them


def _file(shard: object) -> RemoteFile:
    file = shard.path  # type: ignore[attr-defined]
    assert isinstance(file, RemoteFile)
    return file


def test_members_that_lie_far_apart_are_read_apart(server: Nginx) -> None:
    (image, data), (text, captions) = sample(0)
    path = write_tar(server.folder / "apart.tar", [(image, data), ("00000.npy", bytes(1 << 20)), (text, captions)])
    there = far(server.url("plain", "apart.tar"))
    before = len(server.requests())
    assert_same(there[0], ShardPairs([path])[0])
    assert [size for _, size, *_ in server.requests()[before:]] == [len(data), len(captions)]


def test_what_other_tries_cannot_mend_ends_it_at_once(server: Nginx) -> None:
    for address, words in {
        server.url("whole", FIVE): "does not answer range requests",
        server.url("closed", FIVE): "HTTP 403",
        server.url("signed", FIVE + "?signature=secret"): "whether a signed address has expired",
        server.url("nothing", FIVE): "HTTP 404",
        server.url("plain", "{00003..00007}.tar"): "HTTP 404",
        server.url("plain", "*.tar"): "http cannot list",
        "gs://user:secret@bucket/0.tar?secret": "s3://",
        f"https://localhost:{server.tls_port}/plain/0.tar": "certificate that is not trusted",
    }.items():
        start = time.monotonic()
        with pytest.raises(RemoteFault, match=words) as caught:
            far(address, patience=60)
        assert time.monotonic() - start < 5
        assert "secret" not in str(caught.value)
        assert "\n" not in str(caught.value)
        assert caught.value.exit_code == 2


def test_a_server_is_asked_again_when_it_says(server: Nginx) -> None:
    there = far(server.url("later", FIVE))
    before = len(server.requests())
    for index in range(35):
        start = time.monotonic()
        there[index]
        took = time.monotonic() - start
        refused = [status for status, *_ in server.requests()[before:]].count(503)
        if refused:
            assert refused <= took < 20
            return
    pytest.skip("by chance none of 35 requests was refused")


def test_a_server_that_ignores_ranges_is_not_downloaded(server: Nginx) -> None:
    large = server.folder / "large.tar"
    with large.open("wb") as file:
        file.truncate(1 << 30)
    with pytest.raises(RemoteFault, match="range requests"):
        far(server.url("whole", "large.tar"))
    assert server.requests()[-1][1] < 1 << 26  # what was on its way
    large.unlink()


def test_a_shard_that_is_none_is_a_broken_one_and_others_are_used(server: Nginx) -> None:
    (server.folder / "html.tar").write_bytes(b"<html>" * 999)
    (server.folder / "empty.tar").write_bytes(b"")
    there = far(server.url("plain", "{html,00001,empty}.tar"))
    assert len(there) == 3
    assert [(fault.shard, fault.cause) for fault in there.faults] == [
        (server.url("plain", f"{name}.tar"), "broken_shard") for name in ("html", "empty")
    ]


@pytest.mark.slow
def test_gone_for_a_while_and_gone_for_good(
    server: Nginx, shards: list[Path], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "QUIET", 0.5)
    local, there = ShardPairs(shards), far(server.url("plain", FIVE), patience=3)
    expected = list(loader(local).batches(0, 12))
    for workers in (0, 2):
        for gone in (1.5, 60.0):
            batches = loader(there, workers=workers).batches(0, 12)
            found = [next(batches)]
            server.stop()
            threading.Timer(gone, server.start).start() if gone < 3 else None
            start = time.monotonic()
            if gone < 3:
                found += batches
                assert_equal(found, expected)
                continue
            with pytest.raises(Unreachable, match="resume auto") as caught:
                found += batches
            assert caught.value.exit_code == 75
            assert 3 <= time.monotonic() - start < 8
            assert_equal(found, expected[: len(found)])
            server.start()
    assert "trying again, for 3 s in all" in caplog.text  # by this process; a worker's words go to stderr


def test_a_new_process_waits_although_its_parent_gave_up(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        file = RemoteFile(f"http://127.0.0.1:{server.getsockname()[1]}/0.tar", Remote(patience=1.5))

    def gives_up(tries: str) -> None:
        with pytest.raises(Unreachable, match=f" {tries} tries"):
            file.read(0, 1)

    gives_up(r"([2-9]|\d\d)")
    gives_up("1")  # the same outage
    monkeypatch.setattr(remote, "_sessions", {})  # as after a fork
    gives_up(r"([2-9]|\d\d)")
    remote._close(os.getpid())


def test_a_server_that_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "ATTEMPT", 1.0)
    with (
        socket.create_server(("127.0.0.1", 0)) as silent,
        pytest.raises(Unreachable, match="no complete answer in time"),
    ):
        far(f"http://127.0.0.1:{silent.getsockname()[1]}/0.tar", patience=1)


def test_fewer_bytes_than_promised_are_none() -> None:
    with pytest.raises(remote._Again, match="2 of 3 bytes"):
        remote._whole(b"12", 0, 3, 9, "")
    assert remote._whole(b"12", 7, 20, 9, "tag") == remote._Answer(b"12", 9, "tag")


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "_sessions", {})
    for module, address in (("aiohttp", "http://localhost/0.tar"), ("s3fs", "s3://b/0.tar"), ("s3fs", "s3://b/*.tar")):
        monkeypatch.setitem(sys.modules, module, None)
        with pytest.raises(RemoteFault, match=r"\[remote\]"):
            far(address)


def test_a_failing_server_draws_nothing_from_anyone(server: Nginx) -> None:
    there = far(server.url("bad", FIVE))
    random.seed(0)
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()  # noqa: NPY002
    for index in range(35):
        there[index]
    assert random.getstate() == before[0]
    assert np.random.get_state()[1].tolist() == before[1]  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), before[2])


def test_a_shard_that_changes_is_noticed(server: Nginx, tmp_path: Path) -> None:
    path = write_tar(server.folder / "changing.tar", sample(0) + sample(1))
    there = far(server.url("plain", "changing.tar"))
    there[0]
    data = bytearray(path.read_bytes())
    data[600] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(10**18, 10**18))
    with pytest.raises(RemoteFault, match="has changed"):
        there[1]
    path.write_bytes(data[:600])
    with pytest.raises(RemoteFault, match="has changed"):
        there[1]
    assert not isinstance(RemoteFault(""), BadSample)


def test_the_index_is_made_once(server: Nginx, tmp_path: Path, shards: list[Path]) -> None:
    def opened(address: str) -> list[int]:
        """Sizes of the requests it took."""
        before = len(server.requests())
        pairs = ShardPairs(expand(address, Remote(patience=9)), index=IndexCache(tmp_path / "cache"))
        requests = server.requests()[before:]
        assert pairs.fingerprint == ShardPairs(shards).fingerprint
        assert_same(pairs[34], ShardPairs(shards)[34])
        return sorted(size for _, size, *_ in requests)

    sizes = sorted(path.stat().st_size for path in shards)
    assert opened(server.url("signed", FIVE + "?signature=good&secret=1")) == [1] * 5 + sizes
    assert opened(server.url("signed", FIVE + "?signature=good&secret=2")) == [1] * 5  # signed anew
    os.utime(shards[0], ns=(10**18, 10**18))
    assert opened(server.url("signed", FIVE + "?signature=good")) == [1] * 5 + [shards[0].stat().st_size]
    for file in (tmp_path / "cache").iterdir():
        assert b"secret" not in file.read_bytes()


def test_walking_fetches_blocks_and_leaves_out_what_it_need_not_see(
    server: Nginx, monkeypatch: pytest.MonkeyPatch
) -> None:
    members = [member for j in range(40) for member in sample(j)]
    members[20:20] = [(f"{j}.bin", bytes(1 << 20)) for j in range(8)]
    path = write_tar(server.folder / "blocks.tar", members)
    monkeypatch.setattr(remote, "WALK_BLOCK", 1 << 14)
    before = len(server.requests())
    assert far(server.url("busy", "blocks.tar")).fingerprint == ShardPairs([path]).fingerprint
    fetched = [size for status, size, *_ in server.requests()[before:] if status == 206]
    assert max(fetched) <= 1 << 14
    assert sum(fetched) < path.stat().st_size / 8


# --- the cache on disk ------------------------------------------------------------------------------------------------


def test_a_second_epoch_asks_for_nothing(server: Nginx, shards: list[Path], tmp_path: Path) -> None:
    local = ShardPairs(shards)
    there = far(server.url("plain", FIVE), cache=SpanCache(tmp_path / "kept", 1 << 30))
    expected = list(loader(local).batches(0, 8))  # two epochs
    before = len(server.requests())
    assert_equal(list(loader(there, workers=2).batches(0, 8)), expected)
    asked = len(server.requests()) - before
    assert (
        32 <= asked <= 45
    )  # the two workers may both fetch what they visit at the same time, and there are 35 samples
    before = len(server.requests())
    assert_equal(list(loader(there, workers=1).batches(0, 8)), expected)
    assert len(server.requests()) == before
    again = far(server.url("slow", FIVE), cache=SpanCache(tmp_path / "kept", 1 << 30))
    again[0]
    assert server.requests()[-1][3].startswith("/slow/")  # another address is another file


def test_the_cache_stays_within_its_bound(tmp_path: Path) -> None:
    cache = SpanCache(tmp_path / "kept", 1 << 20, open_files=4)
    draw = random.Random(0)
    spans: dict[tuple[str, int], bytes] = {}
    for number in range(400):
        key, start, data = f"shard {number // 20}", 512 + (number % 20) * 40_000, draw.randbytes(30_000)
        cache.put(key, start, data)
        spans[key, start] = data
        assert _on_disk(tmp_path / "kept") <= (1 << 20) + 40_000
        assert cache.get(key, start, len(data)) == data
    kept = {place for place, data in spans.items() if cache.get(*place, len(data)) is not None}
    assert all(cache.get(*place, len(spans[place])) == spans[place] for place in kept)
    assert {key for key, _ in kept} == {"shard 19"}  # what was used last; its neighbour would not fit
    assert cache.get("shard 19", 512, 29_999) is None
    assert len(cache._files._descriptors) <= 4


def test_what_is_only_read_is_in_use_too(tmp_path: Path) -> None:
    for name in "ab":
        SpanCache(tmp_path, 300_000).put(name, 512, bytes(100_000))
        time.sleep(0.01)
    assert SpanCache(tmp_path, 300_000).get("a", 512, 100_000) is not None
    time.sleep(0.01)
    SpanCache(tmp_path, 300_000).put("c", 512, bytes(150_000))
    cache = SpanCache(tmp_path, 300_000)
    assert [
        cache.get(*span) is not None for span in (("a", 512, 100_000), ("b", 512, 100_000), ("c", 512, 150_000))
    ] == [*(True, False, True)]


def test_damage_on_the_disk_is_a_miss(tmp_path: Path) -> None:
    cache, data = SpanCache(tmp_path, 1 << 20), random.Random(0).randbytes(2000)
    cache.put("a", 512, data)
    (file,) = tmp_path.iterdir()
    good = file.read_bytes()
    for place in range(512 - 8, len(good), 7):
        bad = bytearray(good)
        bad[place] ^= 4
        file.write_bytes(bad)
        assert cache.get("a", 512, 2000) is None
    for end in (0, 512, 2000, len(good) - 1):
        file.write_bytes(good[:end])
        assert cache.get("a", 512, 2000) is None
    file.unlink()
    assert cache.get("a", 512, 2000) is None
    cache.put("a", 512, data)
    assert cache.get("a", 512, 2000) == data


def test_a_folder_that_cannot_be_written_costs_the_cache_alone(
    server: Nginx, tmp_path: Path, shards: list[Path], caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    there = far(server.url("plain", FIVE), cache=SpanCache(tmp_path / "file" / "kept", 1 << 20))
    for index in range(9):
        assert_same(there[index], ShardPairs(shards)[index])
    assert caplog.text.count("remote shards are no longer cached") == 1


def _on_disk(folder: Path) -> int:
    return sum(file.stat().st_blocks * 512 for file in folder.iterdir())


# --- secrets, other servers, the command line -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pattern", "parts"),
    [
        ("/a/{0..3}.tar::b?.tar", ["/a/{0..3}.tar", "b?.tar"]),
        ("http://u:secret@h:1/a{0,1}.tar?x=secret#secret", ["http://h:1/a{0,1}.tar"]),
        ("s3://b/k.tar :: https://u@h/x@y/z.tar?secret", ["s3://b/k.tar", "https://h/x@y/z.tar"]),
        ("http://[::1]:80/a.tar?secret::http://[fe80::2]/b.tar", ["http://[::1]:80/a.tar", "http://[fe80::2]/b.tar"]),
    ],
)
def test_secrets_are_left_out(pattern: str, parts: list[str]) -> None:
    assert without_secrets(pattern) == "::".join(parts)
    assert len(split_joined(pattern)) == len(parts)


def test_check_reads_addresses_and_keeps_secrets(
    server: Nginx, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    address = server.url("signed", CORPUS + "?signature=good&key=secret")
    out = tmp_path / "check"
    assert cli.main(["data", "check", address, "--out", str(out), "--workers", "1"]) == 0
    assert "152 of 160 samples can be used" in capsys.readouterr().out
    written = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert {file.parent.name for file in written} >= {"check", "index", "shards"}
    for file in written:
        assert b"secret" not in file.read_bytes()
    assert (out / "quarantine.jsonl").read_text().count(server.url("signed", "")) == 9
    assert cli.main(["data", "check", server.url("nothing", "0.tar?key=secret"), "--out", str(out)]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "secret" not in said


def test_a_run_writes_no_secret_down(server: Nginx, tmp_path: Path, small: Callable[..., Config]) -> None:
    config = small("clip", tmp_path / "run", duration="2 steps")
    address = server.url("signed", CORPUS + "?signature=good&key=secret")
    run.train(replace(config, data=replace(config.data, source="shards", train=address)))
    for file in tmp_path.rglob("*"):
        assert file.is_dir() or b"key=secret" not in file.read_bytes(), file
    assert server.url("signed", CORPUS) in (tmp_path / "run" / "config.yaml").read_text()


def test_settings_arrive(server: Nginx, tmp_path: Path, shards: list[Path]) -> None:
    config = DataConfig(train=server.url("plain", FIVE), index_cache="off", remote_patience=0, remote_cache="off")
    pairs = open_pairs(config, seed=0)
    assert isinstance(pairs, ShardPairs)
    assert _file(pairs.shards[0]).remote.patience == 0
    assert _file(pairs.shards[0]).remote.cache is None
    kept = open_pairs(replace(config, remote_cache=str(tmp_path / "kept"), remote_cache_gb=0.5), seed=0)
    kept[3]
    assert isinstance(kept, ShardPairs)
    cache = _file(kept.shards[0]).remote.cache
    assert cache is not None
    assert cache.max_bytes == 500_000_000
    assert len(list((tmp_path / "kept").iterdir())) == 1
    both = open_pairs(replace(config, train=f"{shards[0]}::{server.url('plain', '{00001..00004}.tar')}"), seed=0)
    assert both.fingerprint == ShardPairs(shards).fingerprint
    with pytest.raises(BadInput, match="remote_cache_gb"):
        DataConfig(remote_cache_gb=0)


FAR = """
import hashlib, sys
from silc.data import remote
from silc.data.shards import ShardPairs
from silc.data.sources import expand
from silc.data.remote import Remote
from silc.errors import BadInput
remote.FIRST_PAUSE = 0.01
for address in sys.argv[1:]:
    try:
        pairs = ShardPairs(expand(address, Remote(patience=20)))
        pairs.read_ahead(range(len(pairs)))
        pixels = b"".join(pairs[index].pixels.tobytes() for index in range(len(pairs)))
        print(pairs.fingerprint, hashlib.sha256(pixels).hexdigest())
    except BadInput as error:
        print(error)
"""


def in_a_process_of_its_own(*addresses: str, **environment: str) -> list[str]:
    """What a fresh process reads there, a line each; some libraries look at the environment once."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "FSSPEC_"))}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", FAR, *addresses],
        env=clean | {"PYTHONPATH": str(Path(__file__).parents[2]), "AWS_EC2_METADATA_DISABLED": "true"} | environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    return done.stdout.splitlines()


def test_s3_and_certificates(server: Nginx, shards: list[Path]) -> None:
    files = str(shards[0].with_name("*.tar"))
    safe, trusted = f"https://localhost:{server.tls_port}/plain/{FIVE}", str(server.root / "certificate.pem")
    here, there = in_a_process_of_its_own(files, safe, SSL_CERT_FILE=trusted)
    assert there == here
    at = {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.port}"}
    public, signed = {"FSSPEC_S3_ANON": "true"}, {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}
    found, missing = in_a_process_of_its_own(f"s3://bad/{FIVE}", f"s3://nothing/{FIVE}", **at, **public)
    assert found == here
    assert "HTTP 404" in missing
    found, closed = in_a_process_of_its_own("s3://plain/0000*.tar", f"s3://closed/{FIVE}", **at, **signed)
    assert found == here
    assert "HTTP 403" in closed
    assert "FSSPEC_S3_ANON" in in_a_process_of_its_own(f"s3://plain/{FIVE}", **at)[0]


def test_the_guide(server: Nginx, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its commands are understood, and the quick one runs."""
    monkeypatch.chdir(tmp_path)
    text = (Path(__file__).parents[2] / "docs" / "guides" / "remote.md").read_text()
    (block,) = re.findall(r"```sh\n(.*?)```", text, flags=re.DOTALL)
    commands = [shlex.split(line)[1:] for line in block.splitlines() if line.startswith("silc")]
    assert len(commands) == 4
    for words in commands:
        if words[0] == "train":
            assert configured("train", words[1:])[0].out == "out/cc3m"
            continue
        words[2] = server.url("plain", FIVE)
        assert cli.main([*words, "--workers", "0"]) == 0
        assert (tmp_path / "out/check/report.html").is_file()


@pytest.fixture(autouse=True)
def _warnings(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
