"""The step fed by tars, on a CPU and at sizes that take seconds; what a GPU would stumble over first."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

from benchmarks import fed, loader, step
from silc.batch import Batch
from silc.config import Config

CPU = torch.device("cpu")


@pytest.fixture
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "WORKERS": 1,
        "NUM_IMAGES": 2,
        "NUM_SAMPLES": 24,
        "LEAST_STEPS": 2,
        "TURNS": 2,
        "REFILL": 0.0,
    }.items():
        monkeypatch.setattr(fed, name, value)


class Recorded:
    """A step that remembers how what it was given lies in memory, and whose it was."""

    def __init__(self, step: Callable[[Batch], float]) -> None:
        self.step = step
        self.layouts: set[tuple[object, ...]] = set()
        self.keys: list[tuple[str, ...]] = []

    def __call__(self, batch: Batch) -> None:
        tensors = (batch.views.globals, batch.views.locals, batch.text)
        self.layouts.add(tuple((x.shape, x.stride(), x.dtype) for x in tensors if x is not None))
        self.keys.append(tuple(batch.keys))
        self.step(batch)


# The compiler asks activations that cross a graph's end for their gradient.
@pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")
@pytest.mark.usefixtures("brief")
@pytest.mark.parametrize("compile", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_the_row(small: Callable[..., Config], compile: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """And a compiled step meets in real batches what it was compiled for."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    config = small("silc_c")
    compiled, synthetic = step.OurStep(config, "cpu", compile=compile), step.batch_of(config, 16, "cpu")
    compiled(synthetic)
    recorded = Recorded(compiled)
    with torch.compiler.set_stance("fail_on_recompile") if compile else nullcontext():
        row = fed.fed_by_tars(config, recorded, synthetic, CPU)
    assert len(recorded.layouts) == 1
    assert row.number == 11
    assert row.value > 0
    assert row.missing == ""
    assert row.figures["workers"] == 1
    assert f"1 workers on {fed.usable_cores()} cores" in row.what
    assert all(seconds > 0 for seconds in row.figures["seconds a step"].values())
    assert set(row.figures["images a second"]) == {"synthetic", "fed", "loader"}
    own, real = tuple(synthetic.keys), [keys for keys in recorded.keys if keys != tuple(synthetic.keys)]
    assert recorded.keys.count(own) == 3 * 2  # one run that warms up and two turns, of two steps
    assert len(real) == 3 * (3 + 2)  # the same, and three steps before each
    assert len(set(real)) > 1


@pytest.mark.usefixtures("brief")
def test_shards_of_the_user(small: Callable[..., Config], tmp_path: Path) -> None:
    shard = loader.write_shard(tmp_path / "0.tar", loader.photographs(1, (48, 48)), 20)
    config = small("silc_c")
    seen = Recorded(lambda batch: 0.0)
    row = fed.fed_by_tars(config, seen, step.batch_of(config, 16, "cpu"), CPU, str(shard))
    assert row.figures["images"] == str(shard)
    assert {key for keys in seen.keys for key in keys} >= {"000000"}


@pytest.mark.usefixtures("brief")
def test_too_little_shared_memory_is_said(small: Callable[..., Config], monkeypatch: pytest.MonkeyPatch) -> None:
    class Usage(NamedTuple):
        free: int

    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(1000))
    config = small("silc_c")
    row = fed.fed_by_tars(config, lambda batch: 0.0, step.batch_of(config, 16, "cpu"), CPU)
    assert row.met is None
    assert row.missing.startswith("needs 0.0 GB of shared memory, /dev/shm has 0.0; in Docker")
