"""What tests of whole runs share: a model that trains in seconds, and the real data where it is."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from silc import recipes
from silc.config import Config
from silc.data.config import ScenesConfig
from silc.models.config import HeadConfig, ImageTowerConfig, ModelConfig, TextTowerConfig

ROOT = Path(__file__).parent.parent
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
