"""Training on a subset: its samples and no others, known by content, with the caption that was asked for."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from silc import cli
from silc.config import Config
from silc.data import uids as uids_of
from silc.data.config import DataConfig
from silc.data.open_files import OpenFiles
from silc.data.shards import ShardPairs
from silc.data.sources import open_pairs
from silc.data.uids import BEST, UID, best_captions, halves, is_subset, places_in, uid_of
from silc.errors import BadInput
from silc.pretraining import run
from tests.data.conftest import encoded, photo, sample, write_tar
from tests.data.test_loader import loader


def save(path: Path, uids: list[str]) -> Path:
    np.save(path, np.sort(halves(uids), order=("f0", "f1")))
    return path


def some(shards: list[Path], every: int = 3) -> list[str]:
    """Every third sample of the fixture's, which have no uid."""
    named = [(path.name, f"{number:05d}") for path, numbers in zip(shards, NUMBERS, strict=True) for number in numbers]
    return [uid_of({}, *name) for name in named[::every]]


NUMBERS = [range(0, 7), range(7, 10), range(10, 19), range(19, 24), range(24, 35)]


def opened(shards: list[Path], **settings: Any) -> Any:
    return open_pairs(DataConfig(train="::".join(map(str, shards)), **settings), seed=0)


def test_a_subset_has_its_samples_in_order(shards: list[Path], tmp_path: Path) -> None:
    pairs = opened(shards, subset=str(save(tmp_path / "a.npy", some(shards))))
    assert [pairs[index].key for index in range(len(pairs))] == [f"{number:05d}" for number in range(0, 35, 3)]
    assert pairs.blocks.tolist() == [sum(number % 3 == 0 for number in numbers) for numbers in NUMBERS]
    assert len(set(pairs.captions(100))) == 24  # two captions each, of the chosen alone
    assert "00003" in pairs.where(1)
    with pytest.raises(IndexError):
        pairs[len(pairs)]
    everything = opened(shards)
    assert everything.fingerprint != pairs.fingerprint
    assert opened(shards, subset=str(save(tmp_path / "b.npy", some(shards)))).fingerprint == pairs.fingerprint
    more = [*some(shards), "f" * 32]
    assert opened(shards, subset=str(save(tmp_path / "c.npy", more))).fingerprint == pairs.fingerprint
    assert opened(shards, subset=str(save(tmp_path / "d.npy", some(shards)[1:]))).fingerprint != pairs.fingerprint


def test_a_subset_that_has_more_is_told(
    shards: list[Path], tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some shards of a pool may be trained on; of another pool only what made uids have in common would be there."""
    monkeypatch.setattr(uids_of, "AT_ONCE", 4)
    file = save(tmp_path / "s.npy", [*some(shards), *some(shards)[:2], "f" * 32, "e" * 32])
    data = DataConfig(train="::".join(map(str, shards[:3])), subset=str(file))
    found = open_pairs(data, seed=0, show=True)
    assert [found[index].key for index in range(len(found))] == [f"{number:05d}" for number in range(0, 19, 3)]
    assert f"7 of the 14 uids of {file} are in none of these shards" in caplog.text


def test_order_and_resuming_are_those_of_any_pairs(shards: list[Path], tmp_path: Path) -> None:
    """To the sample: batches from the second on are those of a run in one go."""
    pairs = opened(shards, subset=str(save(tmp_path / "s.npy", some(shards))))
    batches = loader(pairs, batch_size=4)
    whole, later = ([list(batch.keys) for batch in batches.batches(start, 6)] for start in (0, 2))
    assert whole[2:] == later
    assert sorted(key for keys in whole[:3] for key in keys) == [f"{number:05d}" for number in range(0, 35, 3)]
    assert whole[:3] != whole[3:]


def test_uids_of_the_samples_own_json_go_before_names(tmp_path: Path) -> None:
    uids = [f"{number:032x}" for number in range(3)]
    members = [
        member
        for number, uid in enumerate(uids)
        for member in (
            (f"{number}.jpg", encoded(photo(number))),
            (f"{number}.json", json.dumps({"uid": uid.upper(), "caption": f"a {number}"}).encode()),
        )
    ]
    path = write_tar(tmp_path / "0.tar", members)
    pairs = opened([path], subset=str(save(tmp_path / "s.npy", uids[1:])))
    assert [pairs[index].key for index in range(2)] == ["1", "2"]


def test_captions_are_drawn_or_the_first_or_the_best(shards: list[Path], tmp_path: Path) -> None:
    uids = some(shards)
    file = save(tmp_path / "s.npy", uids)
    places = {uid: number % 2 for number, uid in enumerate(uids)}
    by_pair = {tuple(pair): places[uid] for pair, uid in zip(halves(uids).tolist(), uids, strict=True)}
    np.save(best_captions(file), np.array([by_pair[tuple(pair)] for pair in np.load(file).tolist()], np.uint16))
    both = [f"photo {number}" for number in range(0, 35, 3)], [f"picture number {number}" for number in range(0, 35, 3)]
    assert [pair.captions for pair in opened(shards, subset=str(file))] == [*zip(*both, strict=True)]
    assert [pair.captions[0] for pair in opened(shards, subset=str(file), captions="first")] == both[0]
    best = opened(shards, subset=str(file), captions="best")
    assert [pair.captions for pair in best] == [(both[number % 2][number],) for number in range(12)]
    assert all(len(pair.captions) == 1 for pair in opened(shards, captions="first"))
    _with_uids(file)
    again = opened(shards, subset=str(file), captions="best")
    assert [pair.captions for pair in again] == [pair.captions for pair in best]


def test_captions_of_another_subset_of_one_size_are_refused(shards: list[Path], tmp_path: Path) -> None:
    """As `mv other.npy s.npy` leaves them."""
    file, uids = save(tmp_path / "s.npy", some(shards)), [*some(shards)[1:], "f" * 32]
    np.save(best_captions(file), np.zeros(len(uids), np.uint16))
    _with_uids(file)
    assert len(opened(shards, subset=str(file), captions="best")) == 12
    save(file, uids)
    with pytest.raises(BadInput, match="belongs to another subset"):
        opened(shards, subset=str(file), captions="best")


def _with_uids(subset: Path) -> None:
    """Write which captions scored best as `silc data select` does."""
    uids, places = np.load(subset), np.load(best_captions(subset))
    found = np.zeros(len(uids), BEST)
    found["f0"], found["f1"], found["best"] = uids["f0"], uids["f1"], places
    np.save(best_captions(subset), found)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (lambda path: None, "does not exist"),
        (lambda path: path.write_text("uid"), "cannot be read"),
        (lambda path: np.save(path, np.arange(3)), "an array [3] of int64"),
        (lambda path: np.save(path, np.zeros(0, UID)), "is empty"),
        (lambda path: np.save(path, np.array([(2, 0), (1, 0)], UID)), "is not sorted"),
        (lambda path: np.save(path, np.array([(2, 0), (2, 1)], UID)), "the subset is of other shards"),
    ],
)
def test_what_is_no_subset_is_told(
    content: Callable[[Path], Any], said: str, shards: list[Path], tmp_path: Path
) -> None:
    content(tmp_path / "s.npy")
    with pytest.raises(BadInput, match=said.replace("[", r"\[")):
        opened(shards, subset=str(tmp_path / "s.npy"))


def test_what_does_not_go_together_is_told(shards: list[Path], tmp_path: Path) -> None:
    file = save(tmp_path / "s.npy", some(shards))
    with pytest.raises(BadInput, match="none is named"):
        opened(shards, captions="best")
    with pytest.raises(BadInput, match=r"s\.captions\.npy does not exist"):
        opened(shards, subset=str(file), captions="best")
    np.save(best_captions(file), np.zeros(3, np.uint16))
    with pytest.raises(BadInput, match="belongs to another subset"):
        opened(shards, subset=str(file), captions="best")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "captions.csv").write_text("file_name,caption\na.jpg,a\n")
    with pytest.raises(BadInput, match="silc data make"):
        open_pairs(DataConfig(train=str(tmp_path / "folder"), subset=str(file)), seed=0)


def test_uids_are_read_once(shards: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And again where a kept file is damaged, or a shard has changed."""
    own = [write_tar(tmp_path / path.name, sample(number)) for number, path in enumerate(shards[:2])]
    file, cache = save(tmp_path / "s.npy", [uid_of({}, own[0].name, "00000")]), tmp_path / "cache"
    read, original = list[str](), ShardPairs._uids

    def noted(self: ShardPairs, shard: Any, start: int) -> Any:
        read.append(shard.path.name)
        return original(self, shard, start)

    monkeypatch.setattr(ShardPairs, "_uids", noted)
    fingerprint = opened(own, subset=str(file), index_cache=str(cache)).fingerprint
    assert opened(own, subset=str(file), index_cache=str(cache)).fingerprint == fingerprint
    assert sorted(read) == [path.name for path in own]  # in any order
    for kept in cache.glob("*.uids.npy"):
        kept.write_bytes(kept.read_bytes()[:-3])
    assert opened(own, subset=str(file), index_cache=str(cache)).fingerprint == fingerprint
    assert sorted(read[2:]) == [path.name for path in own]
    write_tar(own[1], sample(7))
    opened(own, subset=str(file), index_cache=str(cache))
    assert read[4:] == [own[1].name]
    opened(own, subset=str(file), index_cache="off")
    assert len(read) == 7


def test_membership_of_halves() -> None:
    """Both halves count; against Python's sets."""
    random = np.random.default_rng(0)
    uids = [f"{high:016x}{low:016x}" for high, low in random.integers(0, 6, (200, 2)).tolist()]
    chosen = sorted(set(uids[:12]))
    found = is_subset(halves(uids), np.sort(halves(chosen), order=("f0", "f1")))
    assert found.tolist() == [uid in chosen for uid in uids]
    assert not is_subset(halves(uids), np.zeros(0, UID)).any()
    many = np.sort(halves([*chosen, *chosen]), order=("f0", "f1"))
    assert places_in(many, halves(uids)).tolist() == np.searchsorted(many, halves(uids)).tolist()


def test_a_run_on_a_subset_goes_on_and_knows_another(
    small: Callable[..., Config], shards: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Held-out pairs are of the subset; the file may move; another subset is refused; check looks at it alone."""
    uids = some(shards, every=2)
    file = save(tmp_path / "s.npy", uids)
    config = small("clip", tmp_path / "run", duration="3 steps", batch_size=8, held_out=2, save_every="2 steps")
    data = replace(config.data, source="shards", train="::".join(map(str, shards)), subset=str(file))
    run.train(replace(config, data=data))
    assert "reading 16 pairs" in capsys.readouterr().out
    moved = file.rename(tmp_path / "moved.npy")
    longer = replace(config, train=replace(config.train, duration="4 steps"), extend=True, resume="auto")
    run.train(replace(longer, data=replace(data, subset=str(moved))))
    other = save(tmp_path / "other.npy", uids[1:])
    again = replace(config, train=replace(config.train, duration="5 steps"), extend=True, resume="auto")
    with pytest.raises(BadInput, match="fingerprint of the samples"):
        run.train(replace(again, data=replace(data, subset=str(other))))
    where = ["data", "check", "::".join(map(str, shards)), "--subset", str(moved), "--workers", "0"]
    assert cli.main([*where, "--out", str(tmp_path / "check")]) == 0
    assert "18 of 18 samples" in capsys.readouterr().out


def test_samples_of_the_fixture_are_numbered(shards: list[Path]) -> None:
    assert [len(numbers) for numbers in NUMBERS] == opened(shards).blocks.tolist()
    assert sample(0)[0][0] == "00000.jpg"


def test_uids_that_cannot_be_read_are_not_made_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One refusal of the file system would take the sample out of the subset for as long as the cache is kept."""
    uids = [f"{number:032x}" for number in range(3)]
    members = [
        member
        for number, uid in enumerate(uids)
        for member in (
            (f"{number}.jpg", encoded(photo(number))),
            (f"{number}.json", json.dumps({"uid": uid, "caption": "a"}).encode()),
        )
    ]
    path = write_tar(tmp_path / "0.tar", members)
    settings = {"subset": str(save(tmp_path / "s.npy", uids)), "index_cache": str(tmp_path / "cache")}
    reads, read = [], OpenFiles.read

    def stale(self: OpenFiles, *args: Any) -> bytes:
        reads.append(args)
        if len(reads) == 2:
            raise OSError(116, "Stale file handle")
        return read(self, *args)

    with monkeypatch.context() as patched:
        patched.setattr(OpenFiles, "read", stale)
        with pytest.raises(BadInput, match="Stale file handle"):
            opened([path], **settings)
    assert len(opened([path], **settings)) == 3


def test_two_shards_of_one_name_are_told(tmp_path: Path) -> None:
    """A subset of one would take the other's samples too; samples that have uids are told apart by them."""
    paths = []
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        paths.append(write_tar(tmp_path / folder / "0.tar", sample(7)))
    subset = str(save(tmp_path / "s.npy", [uid_of({}, "0.tar", "00007")]))
    assert len(opened(paths[:1], subset=subset)) == 1
    with pytest.raises(BadInput, match="have the same name; rename one shard"):
        opened(paths, subset=subset)
    uids = [f"{number:032x}" for number in range(2)]
    for path, uid in zip(paths, uids, strict=True):
        fields = json.dumps({"uid": uid, "caption": "a"}).encode()
        write_tar(path, [("x.jpg", encoded(photo(0))), ("x.json", fields)])
    assert len(opened(paths, subset=str(save(tmp_path / "t.npy", uids)))) == 2


def test_data_sets_with_the_same_keys_are_told_apart(tmp_path: Path) -> None:
    """img2dataset calls the first sample of any data set 00000.tar, 000000000; its JSON has the address."""

    def shard(folder: str, address: str) -> Path:
        (tmp_path / folder).mkdir()
        fields = {"url": address, "caption": "a", "key": "000000000"}
        members = [("000000000.jpg", encoded(photo(0))), ("000000000.json", json.dumps(fields).encode())]
        return write_tar(tmp_path / folder / "00000.tar", members)

    cc3m, cc12m, moved = shard("cc3m", "http://a"), shard("cc12m", "http://b"), shard("moved", "http://a")
    subset = str(save(tmp_path / "s.npy", [uid_of({"url": "http://a"}, "00000.tar", "000000000")]))
    assert len(opened([cc3m], subset=subset)) == len(opened([moved], subset=subset)) == 1
    assert len(opened([cc3m, cc12m], subset=subset)) == 1
    with pytest.raises(BadInput, match="the subset is of other shards"):
        opened([cc12m], subset=subset)


def test_a_repeated_key_is_not_chosen_with_its_first(tmp_path: Path) -> None:
    """It is a broken sample, which would count among those of the subset."""
    members = [
        member for key in ("a", "b", "a") for member in ((f"{key}.jpg", encoded(photo(0))), (f"{key}.txt", b"a"))
    ]
    path = write_tar(tmp_path / "0.tar", members)
    assert len(opened([path])) == 3
    for fields, more in (({}, []), ({"uid": "a" * 32}, [("c.jpg", encoded(photo(0)))])):
        written = [("a.json", json.dumps(fields).encode())] if fields else []
        write_tar(path, [*members[:2], *written, *members[2:], *written, *more])
        pairs = opened([path], subset=str(save(tmp_path / "s.npy", [uid_of(fields, "0.tar", "a")])), index_cache="off")
        assert [pairs[index].key for index in range(len(pairs))] == ["a"]
