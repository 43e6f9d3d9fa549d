"""What tests share, so that what is dear is made once.

small("silc_c", out=..., **train_fields)   a recipe cut down until a run takes a second
finished("silc_c")                         a finished run of it, one for all tests: look, do not write
ranks.silc("train", ..., ranks=2)          `torchrun -m silc train ...` without the imports (tests/ranks.py)
silc_data                                  the real photographs, where they are

A test of the default suite stays below five seconds of one slow core; what needs more is `@pytest.mark.slow`. A peer
that takes seconds to import is imported in the test that asks it. Tests run beside one another: no fixed port, no quiet
machine.
"""

from __future__ import annotations

import os

# Tests are many and small: two threads of one small product wait for each other, and `make test` runs several at once.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import multiprocessing
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch

from silc import recipes
from silc.config import Config
from silc.data.config import ScenesConfig
from silc.models.config import HeadConfig, ImageTowerConfig, ModelConfig, TextTowerConfig

ROOT = Path(__file__).parent.parent
# Processes started with start_method="forkserver" find what they import in memory.
multiprocessing.set_forkserver_preload(["silc.cli", "silc.commands.train", "silc.pretraining.run"])
SILC_DATA = Path(os.environ.get("SILC_DATA", ROOT.parent / "shared" / "data"))


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Indices of shards stay out of the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def silc_data() -> Path:
    """The real-photograph kit; tests that need it are skipped, and say so, where it is absent."""
    if not SILC_DATA.is_dir():
        pytest.skip(f"no real data at {SILC_DATA}; set $SILC_DATA to the kit's folder")
    return SILC_DATA


@pytest.fixture(scope="session")
def small() -> Callable[..., Config]:
    """A recipe cut down until a run takes seconds: `small("silc_c", out=..., **train_fields)`."""

    def make(name: str, out: Path | str = "", **train: object) -> Config:
        config = recipes.get(f"{name}-tiny")
        model = ModelConfig(
            image=ImageTowerConfig(size=16, patch=8, width=32, depth=1, heads=2, mlp=64),
            text=TextTowerConfig(length=12, width=32, depth=1, heads=2, mlp=64),
            embed_dim=32,
            head=HeadConfig(hidden=32, bottleneck=16, prototypes=24),
            teacher=config.model.teacher,
        )
        crops = replace(config.data.crops, local_size=8)
        data = replace(config.data, scenes=ScenesConfig(num=96, size=24), crops=crops, vocab_size=300, workers=0)
        fields: dict[str, object] = {
            "batch_size": 16,
            "duration": "8 steps",
            "log_every": "1 steps",
            "precision": "float32",
            "device": "cpu",
        }
        return replace(config, out=str(out), model=model, data=data, train=replace(config.train, **(fields | train)))

    return make


@pytest.fixture(scope="session")
def finished(small: Callable[..., Config], tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """A finished run of two steps of a recipe of `small`, at images of `size` px; every test gets the same folder."""
    from silc.pretraining import run  # here: who tests a loss does not wait for it

    @cache
    def make(name: str, size: int = 16) -> Path:
        config = small(name, duration="2 steps", out=tmp_path_factory.mktemp(name) / "run")
        image = replace(config.model.image, size=size)
        return run.train(replace(config, model=replace(config.model, image=image)))

    return make
