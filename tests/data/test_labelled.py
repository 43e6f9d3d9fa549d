"""A second kind of data through the same parts: photographs with label maps, from their shards to batches."""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, UnidentifiedImageError

from scripts import nginx
from silc.batch import AnyBatch, Broken
from silc.data.loader import Loader, LoaderPlan, RankSamples
from silc.data.remote import Remote
from silc.data.shards import Shards
from silc.data.sources import expand
from silc.data.split import Subset, draw_held_out
from silc.data.streams import stream
from silc.data.tar import Members
from silc.distributed import World
from silc.errors import BadInput
from tests.data.conftest import labelled, write_tar


@dataclass(frozen=True)
class Labelled:
    key: str
    pixels: np.ndarray
    labels: np.ndarray


class LabelMaps(Shards[Labelled]):
    """All that a source of labelled photographs adds."""

    members = Members(must=("seg.png",))

    def __getitem__(self, index: int) -> Labelled:
        members = self.read(index)
        try:
            labels = np.asarray(Image.open(io.BytesIO(members["seg.png"])))
        except UnidentifiedImageError as error:
            raise self.bad(index, "broken_labels", str(error)) from error
        return Labelled(self.key(index), self.pixels(index, members), labels)


@dataclass(frozen=True)
class LabelledBatch:
    images: torch.Tensor  # uint8 [B, 16, 16, 3]
    labels: torch.Tensor  # uint8 [B, 16, 16]
    keys: Sequence[str]
    broken: Sequence[Broken]

    def to(self, device: torch.device | str) -> LabelledBatch:
        return LabelledBatch(self.images.to(device), self.labels.to(device), self.keys, self.broken)


class Cut:
    """All that a batch of them adds: one cut of 16 x 16 pixels a visit, of the photograph and its labels alike."""

    def __call__(self, samples: RankSamples[Labelled]) -> LabelledBatch:
        images = samples.empty((len(samples), 16, 16, 3), dtype=torch.uint8)
        labels = samples.empty((len(samples), 16, 16), dtype=torch.uint8)
        for place, (sample, visit) in enumerate(samples):
            top, left = stream("cut", *visit).integers(0, (15, 25)).tolist()
            images[place] = torch.from_numpy(sample.pixels[top : top + 16, left : left + 16].copy())
            labels[place] = torch.from_numpy(sample.labels[top : top + 16, left : left + 16].copy())
        return LabelledBatch(images, labels, samples.keys, samples.broken)

    def num_bytes(self, num: int) -> int:
        return num * 16 * 16 * 4


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """40 samples in 4 shards; number 5 has no label map, number 17 one that is no image."""
    folder = tmp_path_factory.mktemp("labelled")
    shards = []
    for shard in range(4):
        samples = {number: labelled(number) for number in range(10 * shard, 10 * shard + 10)}
        if shard == 0:
            samples[5] = samples[5][:1]
        if shard == 1:
            samples[17][1] = (samples[17][1][0], b"no image")
        shards.append(write_tar(folder / f"{shard}.tar", [member for each in samples.values() for member in each]))
    return shards


def loader(source: Any, workers: int = 0, rank: int = 0, ranks: int = 1) -> Loader[LabelledBatch]:
    plan = LoaderPlan(batch_size=8, seed=0, shuffle_shards=2, workers=workers)
    return Loader(source, Cut(), plan, World(rank, ranks))


def flat(batches: Sequence[LabelledBatch]) -> list[Any]:
    """What is in them, sample by sample, and the numbers of broken ones by cause."""
    rows = [row for b in batches for row in zip(b.keys, b.images.tolist(), b.labels.tolist(), strict=True)]
    return [rows, Counter(broken.cause for b in batches for broken in b.broken)]


def test_samples_are_what_was_written(paths: list[Path]) -> None:
    source = LabelMaps(paths)
    assert len(source) == 40
    assert source.contents == {"samples": 79}
    for number in (0, 16, 39):
        sample = source[number]
        assert sample.key == f"{number:05d}"
        assert sample.pixels.shape == (30, 40, 3)
        assert np.array_equal(np.unique(sample.labels), [number, number + 1])


def test_some_can_be_held_out(paths: list[Path]) -> None:
    source = LabelMaps(paths)
    left = Subset(source, draw_held_out(source, 10))
    others = {f"{number:05d}" for number in range(40)} - {f"{number:05d}" for number in draw_held_out(source, 10)}
    assert {key for batch in loader(left).batches(0, 3) for key in batch.keys} <= others


def test_batches_are_the_same_for_workers_and_ranks_and_from_any_step_on(paths: list[Path]) -> None:
    source = LabelMaps(paths)
    alone = list(loader(source).batches(0, 8))  # into the second epoch, which has 5 steps
    batch: AnyBatch = alone[0].to("cpu")
    assert len(batch.keys) == 8
    for one in alone:
        for key, labels in zip(one.keys, one.labels, strict=True):
            assert set(labels.unique().tolist()) <= {int(key), int(key) + 1}
    assert Counter(broken.cause for one in alone[:5] for broken in one.broken) == {"no_member": 1, "broken_labels": 1}
    assert (
        len({(key, row.numpy().tobytes()) for one in alone for key, row in zip(one.keys, one.images, strict=True)}) > 60
    )
    for workers in (0, 2):
        begun = loader(source, workers)
        first = list(begun.batches(0, 3))
        state = json.loads(json.dumps(begun.state(3)))
        ranks = [loader(source, workers, rank, 2) for rank in range(2)]
        for rank in ranks:
            rank.check(state)
        halves = zip(*(list(rank.batches(state["step"], 8)) for rank in ranks), strict=True)
        assert flat(first + [half for both in halves for half in both]) == flat(alone)


def test_other_labels_are_other_data(paths: list[Path], tmp_path: Path) -> None:
    """Their places are part of the fingerprint, as those of captions are."""
    other = [write_tar(tmp_path / path.name, [m for n in range(10) for m in labelled(n)]) for path in paths]
    with pytest.raises(BadInput, match="fingerprint"):
        loader(LabelMaps(paths)).check(loader(LabelMaps(other)).state(1))


def test_far_shards_are_read_alike(paths: list[Path], tmp_path: Path) -> None:
    """With one request a sample: image and labels lie together."""
    if absent := nginx.missing():
        pytest.skip(absent)
    with nginx.Nginx(tmp_path, paths[0].parent) as server:
        far = LabelMaps(expand(server.url("plain", "{0..3}.tar"), Remote(patience=30.0)))
        before = len(server.requests())
        assert flat(list(loader(far).batches(0, 5))) == flat(list(loader(LabelMaps(paths)).batches(0, 5)))
        assert far.fingerprint == LabelMaps(paths).fingerprint
        statuses = [status for status, *_ in server.requests()[before:]]
        assert statuses == [206] * (39 + 2)  # nothing of the one without a label map; one stand-in for each broken one
        assert not any(shard.path._asked for shard in far.shards)  # type: ignore[union-attr]
