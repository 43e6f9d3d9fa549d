"""The benchmark of the loader runs, and its baselines make what the loader makes."""

from __future__ import annotations

import io
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks import loader
from benchmarks.baselines.loader import PillowCrops, TorchvisionCrops, sequential_bytes, torchvision_decode
from benchmarks.suite import BenchConfig
from silc.data.config import CropConfig
from silc.images import decode_rgb

pytestmark = [
    pytest.mark.filterwarnings("ignore:The image decoding and encoding:DeprecationWarning"),
    # webdataset leaves its files open.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

WHOLE = CropConfig(num_global=2, num_local=3, local_size=40, global_area=(1, 1), local_area=(1, 1), aspect=(1, 1))


@pytest.fixture(scope="module")
def images() -> list[bytes]:
    return loader.photographs(3, (96, 96))


def test_photographs_are_as_heavy_as_photographs() -> None:
    """0.2 megapixels in about 108 kB, as ImageNet's; different, and the same each time."""
    images = loader.photographs(2)
    assert images[0] != images[1]
    assert images == loader.photographs(2)
    for data in images:
        assert Image.open(io.BytesIO(data)).size == (512, 384)
        assert len(data) == pytest.approx(108_000, rel=0.1)


def test_baselines_make_the_same_views(images: list[bytes]) -> None:
    """Where the box is the whole image, whatever is drawn: equal but for rounding and the mirror."""
    for data in images:
        assert np.array_equal(torchvision_decode(data).permute(1, 2, 0).numpy(), np.asarray(decode_rgb(data)))
        _, global_views, local_views = loader._ours(WHOLE)(data)
        assert global_views is not None
        assert local_views is not None
        ours = [*global_views, *local_views]
        peers = TorchvisionCrops(WHOLE, loader.SIZE)(data)
        pillows = [torch.from_numpy(view.copy()).permute(2, 0, 1) for view in PillowCrops(WHOLE, loader.SIZE)(data)]
        for view, *others in zip(ours, peers, pillows, strict=True):
            for other in others:
                assert other.shape == view.shape
                assert other.dtype == view.dtype == torch.uint8
                plain, mirrored = ((view.int() - way.int()).abs().max() for way in (other, other.flip(-1)))
                assert min(plain, mirrored) <= 2


def test_webdataset_reads_every_byte(tmp_path: Path, images: list[bytes]) -> None:
    pytest.importorskip("webdataset")
    shard = loader.write_shard(tmp_path / "0.tar", images, 7)
    assert sequential_bytes([str(shard)], 100) > sum(len(images[number % 3]) for number in range(7))
    assert sequential_bytes([str(shard)], 1) < sequential_bytes([str(shard)], 2)


def test_rows(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, images: list[bytes]) -> None:
    pytest.importorskip("webdataset")
    monkeypatch.setattr(loader, "NUM_IMAGES", 2)
    monkeypatch.setattr(loader, "NUM_READ", 4)
    monkeypatch.setattr(loader, "TURNS", 1)
    shard = loader.write_shard(tmp_path / "0.tar", images, 40)
    threads = torch.get_num_threads()
    rows = loader.rows(BenchConfig(images=str(shard)))
    assert [row.number for row in rows] == [1, 1, 1, 3, 16]
    for row in rows:
        assert 0 < row.value < math.inf
        assert row.target is not None
        assert all(value > 0 for value in row.figures.values())
    assert torch.get_num_threads() == threads
