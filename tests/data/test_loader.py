"""Batches are a function of (seed, step): not of workers, ranks, or where one starts."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from silc.batch import Batch, Broken
from silc.data.collate import PairCollate
from silc.data.config import CropConfig, PhotometricConfig
from silc.data.crops import MultiCrop
from silc.data.folder import FolderPairs
from silc.data.loader import Loader, LoaderPlan
from silc.data.pairs import BadSample, Pair, Pairs
from silc.data.scenes import ScenePairs
from silc.data.shards import ShardPairs
from silc.data.split import Subset, draw_held_out
from silc.data.tokenizer import BPETokenizer
from silc.distributed import World
from silc.errors import BadInput
from silc.preprocess import Preprocess
from tests.data.conftest import encoded, photo, sample, write_tar

TOKENIZER = BPETokenizer.train(["photo number 0123456789", "a picture of scenes"], 300, 16)


def loader(
    pairs: Pairs,
    *,
    scaled_decoding: bool = False,
    photometric: PhotometricConfig | None = None,
    rank: int = 0,
    world_size: int = 1,
    **changes: Any,
) -> Loader[Batch]:
    config = CropConfig(num_global=2, num_local=3, local_size=8, scaled_decoding=scaled_decoding)
    views = MultiCrop(config, size=16, original=True, preprocess=Preprocess(16))
    plan = replace(LoaderPlan(batch_size=8, seed=0, shuffle_shards=2, workers=0), **changes)
    pairs = pairs.reduced(views.suffices) if scaled_decoding else pairs
    collate = PairCollate(views, TOKENIZER, photometric)
    return Loader(pairs, collate, plan, World(rank, world_size))


def tensors(batch: Batch) -> list[torch.Tensor]:
    views = batch.views
    assert views.original is not None
    assert views.globals is not None
    assert views.locals is not None
    return [views.original, views.globals.transpose(0, 1), views.locals.transpose(0, 1), batch.text]  # B first


def assert_equal(batches: list[Batch], others: list[Batch]) -> None:
    assert len(batches) == len(others)
    for batch, other in zip(batches, others, strict=True):
        assert list(batch.keys) == list(other.keys)
        assert batch.broken == other.broken
        for a, b in zip(tensors(batch), tensors(other), strict=True):
            assert torch.equal(a, b)


def test_shapes(shards: list[Path]) -> None:
    batch = next(loader(ShardPairs(shards)).batches(0, 1))
    shapes = [tuple(tensor.shape) for tensor in tensors(batch)]
    assert shapes == [(8, 3, 16, 16), (8, 2, 3, 16, 16), (8, 3, 3, 8, 8), (8, 16)]
    assert len(batch.keys) == 8
    assert not batch.broken
    assert all(tensor.dtype == torch.uint8 for tensor in tensors(batch)[:3])


@pytest.mark.timeout(60)
def test_workers_change_nothing(
    shards: list[Path], capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Someone's setting, with which the tokenizers library waits forever after a fork that follows its use of threads.
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "true")
    TOKENIZER(["photo"] * 100)
    pairs = ShardPairs(shards)
    alone = list(loader(pairs).batches(0, 10))  # into the third epoch
    for workers in (1, 3):
        assert_equal(list(loader(pairs, workers=workers).batches(0, 10)), alone)
    assert capfd.readouterr().err == ""  # the tokenizers library prints its warnings


def fingerprints(batch: Batch) -> list[tuple[str, str]]:
    """(id, hash of every view and token) of each sample."""
    return [
        (key, hashlib.sha256(b"".join(part.numpy().tobytes() for part in parts)).hexdigest())
        for key, *parts in zip(batch.keys, *tensors(batch), strict=True)
    ]


GRID = [(world_size, workers) for world_size in (1, 2, 4) for workers in (0, 1, 3)]


@pytest.mark.parametrize("before", GRID)
def test_ranks_and_workers_change_nothing_not_even_at_a_resume(shards: list[Path], before: tuple[int, int]) -> None:
    """Ids in order, views and tokens of 9 global batches, in 3 epochs; others take over in the middle of the second."""
    pairs = ShardPairs(shards)

    def global_batches(setting: tuple[int, int], start: int, stop: int) -> list[list[tuple[str, str]]]:
        world_size, workers = setting
        ranks = [
            loader(pairs, rank=rank, world_size=world_size, workers=workers).batches(start, stop)
            for rank in range(world_size)
        ]
        return [[sample for part in parts for sample in fingerprints(part)] for parts in zip(*ranks, strict=True)]

    alone = global_batches((1, 0), 0, 9)
    after = GRID[(GRID.index(before) + 5) % len(GRID)]  # 5 and 9 have no common factor: both numbers change
    assert before[0] != after[0]
    assert global_batches(before, 0, 6) + global_batches(after, 6, 9) == alone
    assert len({visit for batch in alone for _, visit in batch}) == 9 * 8  # no two visits look alike


def test_starting_late_changes_nothing(shards: list[Path]) -> None:
    pairs = ShardPairs(shards)
    assert_equal(list(loader(pairs).batches(6, 9)), list(loader(pairs).batches(0, 9))[6:])
    assert list(loader(pairs).batches(3, 3)) == []


def test_an_epoch_visits_a_sample_at_most_once_and_batches_do_not_mix_epochs(shards: list[Path]) -> None:
    run = loader(ShardPairs(shards))
    assert run.steps_per_epoch == 4  # 35 samples, 3 are left out
    first, second = ([key for batch in run.batches(start, start + 4) for key in batch.keys] for start in (0, 4))
    assert len(set(first)) == len(set(second)) == 32
    assert first != second


def test_captions_and_crops_change_from_epoch_to_epoch(shards: list[Path]) -> None:
    run = loader(ShardPairs(shards))
    visits: dict[str, list[tuple[bytes, bytes]]] = {}
    for batch in run.batches(0, 4 * 12):
        _, globals_, _, text = tensors(batch)
        for key, crop, ids in zip(batch.keys, globals_, text, strict=True):
            visits.setdefault(key, []).append((crop.numpy().tobytes(), ids.numpy().tobytes()))
    assert len(visits) == 35
    for seen in visits.values():
        assert len({crop for crop, _ in seen}) == len(seen)
        assert len({ids for _, ids in seen}) == 2  # both captions


def test_the_runs_own_random_numbers_are_left_alone(shards: list[Path]) -> None:
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    for workers in (0, 1):
        list(loader(ShardPairs(shards), workers=workers).batches(0, 1))
    assert torch.equal(torch.rand(3), expected)


def test_leaving_early_is_quiet(shards: list[Path], capfd: pytest.CaptureFixture[str]) -> None:
    batches = loader(ShardPairs(shards), workers=2).batches(0, 1000)
    assert isinstance(next(batches), Batch)
    assert isinstance(batches, Iterator)
    batches.close()  # type: ignore[attr-defined]
    assert capfd.readouterr().err == ""


def test_scenes_load() -> None:
    run = loader(ScenePairs(20, 32, 0))
    assert len({key for batch in run.batches(0, 2) for key in batch.keys}) == 16


# Broken samples


def shard_with_bad(path: Path, size: int, bad: dict[int, str]) -> Path:
    """A shard whose samples of some numbers are broken: "image" or "caption"."""
    members = []
    for number in range(size):
        (image_name, image), (text_name, text) = sample(number)
        kind = bad.get(number)
        members.append((image_name, b"no image" if kind == "image" else image))
        members.append((text_name, b'{"captions": [" "]}' if kind == "caption" else text))
    return write_tar(path, members)


def test_broken_samples_are_counted_and_replaced_by_the_next_of_their_shard(tmp_path: Path) -> None:
    bad = {3: "image", 4: "image", 11: "caption", 15: "caption"}  # 15 is the last: the next is 0
    pairs = ShardPairs([shard_with_bad(tmp_path / "a.tar", 16, bad)])
    whole = ShardPairs([shard_with_bad(tmp_path / "b.tar", 16, {})])
    for workers in (0, 2):
        run, clean = loader(pairs, workers=workers), loader(whole)
        got, asked = list(run.batches(0, 2)), list(clean.batches(0, 2))
        swap = {"00003": "00005", "00004": "00005", "00011": "00012", "00015": "00000"}
        for batch, wanted in zip(got, asked, strict=True):
            assert list(batch.keys) == [swap.get(key, key) for key in wanted.keys]
            broken = Counter("no_image" if int(key) < 10 else "empty_caption" for key in wanted.keys if key in swap)
            assert Counter(broken.cause for broken in batch.broken) == broken


@pytest.mark.parametrize("workers", [0, 2])
def test_a_shard_of_broken_samples_is_one_line_even_from_a_worker(tmp_path: Path, workers: int) -> None:
    pairs = ShardPairs([shard_with_bad(tmp_path / "a.tar", 16, dict.fromkeys(range(16), "image"))])
    with pytest.raises(BadInput, match=r"16 samples in a row are broken.*a\.tar") as caught:
        list(loader(pairs, workers=workers).batches(0, 2))
    assert "\n" not in str(caught.value)
    assert "Traceback" not in str(caught.value)


def test_a_shard_of_broken_samples_among_others_is_replaced_by_them(tmp_path: Path) -> None:
    rotten = shard_with_bad(tmp_path / "a.tar", 4, dict.fromkeys(range(4), "image"))
    others = [write_tar(tmp_path / f"{name}.tar", sample(100 + name) + sample(200 + name)) for name in (1, 2)]
    run = loader(ShardPairs([rotten, *others]))
    batch = next(run.batches(0, 1))
    assert Counter(batch.keys) == {"00101": 3, "00201": 3, "00102": 1, "00202": 1}  # by place in the next shard
    assert Counter(broken.cause for broken in batch.broken) == {"no_image": 4}


def test_the_search_for_a_replacement_is_bounded() -> None:
    reads = []

    class Nothing:
        blocks, fingerprint, faults = np.array([1000]), "", {}

        def __len__(self) -> int:
            return 1000

        def __getitem__(self, index: int) -> Pair:
            reads.append(index)
            raise BadSample(Broken("a.tar", "x", "no_image", "is none"))

        def read_ahead(self, indices: Sequence[int]) -> None:
            pass

        def where(self, index: int) -> str:
            return ""

        def captions(self, limit: int) -> Iterator[str]:
            return iter(())

    with pytest.raises(BadInput, match="100 samples in a row"):
        list(loader(Nothing()).batches(0, 1))
    assert len(reads) == len(set(reads)) == 100


def test_mixed_kinds_of_images_make_one_batch(shard: Callable[..., Path]) -> None:
    kinds = [photo(0).convert("L"), photo(1).convert("CMYK"), photo(2, (300, 20)), photo(3, (1, 1))]
    members = [m for i, image in enumerate(kinds) for m in ((f"{i}.jpg", encoded(image)), (f"{i}.txt", b"photo"))]
    batch = next(loader(ShardPairs([shard(members)]), batch_size=4).batches(0, 1))
    assert sorted(batch.keys) == ["0", "1", "2", "3"]
    assert not batch.broken


# Settings that cannot work


def large_photo(number: int) -> Image.Image:
    """Smooth."""
    return photo(number, (6, 5)).resize((400, 300), Image.Resampling.BICUBIC)


def test_scaled_decoding_changes_pixels_alone_and_little(tmp_path: Path) -> None:
    """Keys, captions and faults are those of whole images; views differ by less than a box does that is a pixel off."""
    members = [[(f"{n}.jpg", encoded(large_photo(n))), (f"{n}.txt", b"photo")] for n in range(11)]
    members[5][0] = ("5.jpg", b"no image")
    pairs = ShardPairs([write_tar(tmp_path / "a.tar", [*chain(*members)])])
    whole, scaled = (
        next(loader(pairs, scaled_decoding=on, batch_size=11, workers=workers).batches(0, 1))
        for on, workers in ((False, 0), (True, 1))
    )
    assert scaled.keys == whole.keys
    assert scaled.broken == whole.broken != []
    *views, text = zip(tensors(scaled), tensors(whole), strict=True)
    assert torch.equal(*text)
    for view, other in views:
        assert 0 < (view.int() - other.int()).abs().float().mean() < 8
        assert (view.int() - other.int().roll(1, 0)).abs().float().mean() > 40


def test_sources_are_reduced_and_stay_as_they_were(tmp_path: Path) -> None:
    """Shards, folders and what is left of them; a scene is what it is."""
    data = encoded(large_photo(0))
    (tmp_path / "0.jpg").write_bytes(data)
    (tmp_path / "captions.csv").write_text("image,caption\n0.jpg,photo\n")
    shards = ShardPairs(
        [write_tar(tmp_path / "a.tar", [("0.jpg", data), ("0.txt", b"a"), ("1.jpg", data), ("1.txt", b"b")])]
    )
    for pairs in (shards, FolderPairs(tmp_path / "captions.csv"), Subset(shards, np.array([0]))):
        reduced = pairs.reduced(lambda width, height: width >= 100)
        assert reduced[0].pixels.shape == (75, 100, 3)
        assert pairs[0].pixels.shape == (300, 400, 3)
        assert reduced.fingerprint == pairs.fingerprint
        assert (reduced[0].key, reduced[0].captions) == (pairs[0].key, pairs[0].captions)
    scenes = ScenePairs(3, 32, 0)
    assert np.array_equal(scenes.reduced(lambda *_: True)[1].pixels, scenes[1].pixels)


def test_fewer_samples_than_one_global_batch() -> None:
    assert loader(ScenePairs(8, 16, 0)).steps_per_epoch == 1
    with pytest.raises(BadInput, match="7 samples are fewer than one global batch of 8"):
        loader(ScenePairs(7, 16, 0))


def test_ranks_that_do_not_divide_the_batch() -> None:
    with pytest.raises(BadInput, match="multiple of 3"):
        loader(ScenePairs(20, 16, 0), world_size=3)


def test_a_saved_position_is_checked() -> None:
    run = loader(ScenePairs(20, 16, 0))
    state = json.loads(json.dumps(run.state(5)))
    assert (state["step"], state["epoch"], state["samples"]) == (5, 2, 40)
    run.check(state)
    loader(ScenePairs(20, 16, 0), workers=2, rank=1, world_size=2).check(state)
    others = {
        "fingerprint": loader(ScenePairs(21, 16, 0)),
        "seed": loader(ScenePairs(20, 16, 0), seed=1),
        "batch_size": loader(ScenePairs(20, 16, 0), batch_size=4),
        "shuffle_shards": loader(ScenePairs(20, 16, 0), shuffle_shards=3),
    }
    for name, other in others.items():
        with pytest.raises(BadInput, match=name) as caught:
            other.check(state)
        assert str(state[name]) in str(caught.value)
        assert str(other.state(0)[name]) in str(caught.value)


def test_a_run_goes_on_with_its_own_subset_alone(shards: list[Path]) -> None:
    """Of two that are as large; and a run of before its numbers were written down with what `train.held_out` drew."""
    pairs = ShardPairs(shards)
    drawn = draw_held_out(pairs, 3)
    ours, other = (loader(Subset(pairs, numbers)) for numbers in (drawn, np.array([0, 1, 2])))
    ours.check(ours.state(5))
    other.check(other.state(5))
    before = ours.state(5) | {"fingerprint": f"{pairs.fingerprint}-3"}
    ours.check(before)
    for state in (ours.state(5), before, loader(pairs).state(5)):
        with pytest.raises(BadInput, match="fingerprint of the samples"):
            other.check(state)
    for state in (other.state(5), before | {"fingerprint": f"{pairs.fingerprint}-4"}, loader(pairs).state(5)):
        with pytest.raises(BadInput, match="fingerprint of the samples"):
            ours.check(state)


def test_other_samples_are_accepted_when_asked_for(caplog: pytest.LogCaptureFixture) -> None:
    """The position in samples is kept; the order and the epoch are the new list's."""
    state = loader(ScenePairs(20, 16, 0)).state(5)
    grown = loader(ScenePairs(48, 16, 0), accept_changed_shards=True)
    grown.check(state)
    assert "after 40 samples" in caplog.text
    assert grown.state(5)["epoch"] == 0
    for name in ("seed", "batch_size", "shuffle_shards"):
        with pytest.raises(BadInput, match=name):
            grown.check(state | {name: 99})


@pytest.mark.timeout(60)
def test_a_worker_outlives_requests_to_stop_but_not_its_main_process(shards: list[Path]) -> None:
    """They are meant for the main process, which needs batches until it has saved."""
    pairs = ShardPairs(shards)
    batches = loader(pairs, workers=1).batches(0, 6)
    ours = [next(batches)]
    (worker,) = multiprocessing.active_children()
    for name in ("USR1", "INT", "TERM"):  # from another process than its main one
        subprocess.run(["kill", f"-{name}", str(worker.pid)], check=True)
    ours += batches
    assert_equal(ours, list(loader(pairs).batches(0, 6)))
    batches = loader(pairs, workers=1).batches(0, 100)
    next(batches)
    (worker,) = multiprocessing.active_children()
    batches.close()
    worker.join(1)
    assert worker.exitcode == 0


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_a_process_that_ends_in_the_middle_of_its_batches_ends(shards: list[Path], tmp_path: Path) -> None:
    """Left open, as by an exception whose traceback still holds them."""
    script = tmp_path / "left_open.py"
    script.write_text(
        "import sys; from pathlib import Path; from tests.data.test_loader import loader; "
        "from silc.data.shards import ShardPairs; "
        "batches = loader(ShardPairs([Path(p) for p in sys.argv[1:]]), workers=1).batches(0, 1000); next(batches); "
        "sys.kept = batches"
    )
    env = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    subprocess.run([sys.executable, str(script), *map(str, shards)], env=env, timeout=100, check=True)
