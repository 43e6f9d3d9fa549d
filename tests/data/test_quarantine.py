"""Planted faults are counted exactly, listed once, and judged alike on every rank, whatever ranks and workers."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from silc import config as configs
from silc.batch import Batch, Broken, Views
from silc.config import Config
from silc.data.quarantine import QUARANTINE, Quarantine, Samples
from silc.data.shards import ShardPairs
from silc.distributed import World
from silc.errors import BadInput
from silc.pretraining import run
from silc.training.log import history
from tests import ranks
from tests.data.test_loader import GRID, loader

# pytest's filters replace those `silc.images` sets, in this process but not in its workers.
pytestmark = pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")


class Threads:
    """A world whose ranks are threads."""

    def __init__(self, size: int) -> None:
        self.barrier, self.values = threading.Barrier(size, timeout=60), [None] * size

    def rank(self, number: int) -> Any:
        world = World(number, len(self.values))

        class Member:
            rank, size, is_main = world.rank, world.size, world.is_main

            def collect(_, value: Any) -> list[Any]:
                self.values[number] = value
                self.barrier.wait()
                everyone = list(self.values)
                self.barrier.wait()
                return everyone

        return Member()


def watched(file: Path, pairs: Any, ranks: list[list[Batch]], max_bad_rate: float = 0.1) -> list[Quarantine | BadInput]:
    """Let every rank's batches pass through its quarantine; a rank's quarantine, or what it raised."""
    threads, ended = Threads(len(ranks)), [None] * len(ranks)
    samples = Samples(len(pairs), pairs.faults, max_bad_rate)

    def work(number: int) -> None:
        world = threads.rank(number)
        quarantine = Quarantine(file, samples, batch_size=8, met={}, world=world)
        try:
            for step, batch in enumerate(quarantine.watch(iter(ranks[number]), 0)):
                assert batch is ranks[number][step]
            quarantine.sync()
            ended[number] = quarantine
        except BadInput as error:
            ended[number] = error

    running = [threading.Thread(target=work, args=(number,)) for number in range(len(ranks))]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join(120)
    return ended


def entries(file: Path) -> list[tuple[str, str, str]]:
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert all(line.keys() == {"shard", "key", "cause", "detail"} for line in lines)
    return [(line["shard"], line["key"], line["cause"]) for line in lines]


def test_planted_faults_are_counted_exactly_for_every_number_of_ranks_and_workers(corpus: Any, tmp_path: Path) -> None:
    paths, truth = corpus
    pairs, files, ids = ShardPairs(paths), [], []
    assert len(pairs) == 160
    for world_size, workers in GRID:
        ranks = [
            list(loader(pairs, rank=rank, world_size=world_size, workers=workers).batches(0, 40))
            for rank in range(world_size)
        ]
        once = tmp_path / f"{world_size}-{workers}-one.jsonl"
        for number_of_epochs, file in ((1, once), (2, tmp_path / f"{world_size}-{workers}-two.jsonl")):
            stop = 20 * number_of_epochs
            ended = watched(file, pairs, [batches[:stop] for batches in ranks])
            for quarantine in ended:
                assert isinstance(quarantine, Quarantine)
                expected = Counter(cause for _, key, cause in truth if key)
                assert quarantine.met == {cause: number_of_epochs * count for cause, count in expected.items()}
            assert len(entries(file)) == len(truth) == 9  # once at all
            assert set(entries(file)) == truth
            files.append(file.read_text())
        ids.append([key for step in zip(*ranks, strict=True) for batch in step for key in batch.keys])
    assert len(set(files)) == 1
    assert all(each == ids[0] for each in ids)  # replacements too
    broken = {key for _, key, cause in truth if cause not in ("duplicate_key", "cut_shard")}
    assert not broken & set(ids[0])


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_the_rate_is_judged_over_all_ranks(world_size: int, tmp_path: Path) -> None:
    """All broken samples fall on the last rank: every rank stops before the same step, with the same words."""

    def batches(rank: int, num: int) -> list[Batch]:
        broken = [Broken("a.tar", f"{rank}", "no_image", "is none")] * (num if rank == world_size - 1 else 0)
        return [Batch(Views(None, None, None), torch.zeros(0), [], broken)] * 300

    class Source:
        faults = ()

        def __len__(self) -> int:
            return 10_000

    ended = watched(tmp_path / "q.jsonl", Source(), [batches(rank, 1) for rank in range(world_size)])
    assert all(isinstance(end, BadInput) for end in ended)
    # Step 32 is the first look after 200 samples: 32 of 256, over 10 %. On the last of 4 ranks alone it were 50 %.
    expected = r"32 of 256 samples read are broken (12.5%; no_image 32), the limit is 10.0%; "
    assert {str(end) for end in ended} == {f"{expected}{tmp_path}/q.jsonl lists them: repair the shards or raise "
                                           "data.max_bad_rate"}  # fmt: skip
    ended = watched(tmp_path / "r.jsonl", Source(), [batches(rank, 1) for rank in range(world_size)], max_bad_rate=0.13)
    assert all(isinstance(end, Quarantine) for end in ended)


def test_what_was_met_before_counts_but_not_what_is_wrong_with_shards(tmp_path: Path) -> None:
    quarantine = Quarantine(
        tmp_path / "q.jsonl",
        Samples(1000, max_bad_rate=0.1),
        batch_size=8,
        met={"no_image": 50, "ignored_member": 10_000, "cut_shard": 3, "broken_shard": 9},
        world=World(),
    )
    fine = Batch(Views(None, None, None), torch.zeros(0), [])
    assert len(list(quarantine.watch(iter([fine] * 3), 62))) == 3  # at step 64: 50 of 512
    one_more = replace(fine, broken=[Broken("a", "b", "no_image", "")] * 2)
    with pytest.raises(BadInput, match="52 of 512"):
        list(quarantine.watch(iter([one_more]), 63))


def test_the_file_survives_a_crash_and_another_start(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "q.jsonl"
    faults = [Broken("a.tar", name, "ignored_member", "is a link") for name in ("../x", "é\udcff")]

    def again(*broken: Broken) -> None:
        quarantine = Quarantine(file, Samples(9, faults), batch_size=8, met={}, world=World())
        batch = Batch(Views(None, None, None), torch.zeros(0), [], broken)
        assert list(quarantine.watch(iter([batch]), 4)) == [batch]
        quarantine.sync()

    again(Broken("a.tar", "1", "no_image", "x"), Broken("a.tar", "1", "no_image", "x"))
    assert [entry[1] for entry in entries(file)] == ["../x", "é\udcff", "1"]
    assert "a.tar: ignored_member: is a link (and 1 more)" in caplog.text
    file.write_bytes(file.read_bytes() + b'{"shard": "a.t')  # a crash in the middle of a line
    again(Broken("b.tar", "2", "no_image", "x"), Broken("a.tar", "1", "no_image", "another word"))
    assert [entry[1] for entry in entries(file)] == ["../x", "é\udcff", "1", "2"]


def test_a_run_without_faults_has_no_file(small: Callable[..., Config], tmp_path: Path) -> None:
    run.train(small("clip", duration="2 steps", out=tmp_path / "run"))
    assert not (tmp_path / "run" / QUARANTINE).exists()


def test_two_ranks_of_silc_train_count_as_one(corpus: Any, small: Callable[..., Config], tmp_path: Path) -> None:
    """Real processes: an epoch of 160 samples; counts in the log, the checkpoint and the file."""
    paths, truth = corpus
    config = small("clip", duration="10 steps", save_every="3 steps", log_every="10 steps", out=tmp_path / "one")
    config = replace(config, data=replace(config.data, source="shards", train=str(paths[0].with_name("*.tar"))))
    run.train(config)
    configs.save(replace(config, out=str(tmp_path / "two")), tmp_path / "two.yaml")
    ranks.silc("train", str(tmp_path / "two.yaml"), "--data.workers", "1")
    one, two = ((tmp_path / name / QUARANTINE).read_text() for name in ("one", "two"))
    assert one == two
    assert set(entries(tmp_path / "one" / QUARANTINE)) == truth
    for name in ("one", "two"):
        bad = {k[4:]: v for k, v in history(tmp_path / name)[-1].items() if k.startswith("bad/")}
        assert bad == Counter(cause for _, _, cause in truth)
