"""The guide of CAT-Seg: its flags are there, its numbers the defaults."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from silc import config as configs
from silc.eval.tasks import TASKS
from silc.given import flags
from silc.heads.catseg.aggregator import window_of
from silc.heads.catseg.config import CatSegConfig

GUIDE = (Path(__file__).parents[2] / "docs" / "guides" / "catseg.md").read_text()


def test_its_flags_are_settings() -> None:
    known = configs.flat(CatSegConfig())
    named = re.findall(r"`--([a-z.-]+)", GUIDE)
    assert len(named) > 12
    others = {"init", "out", "resume"}
    for name in {name.replace("-", "_") for name in named} - others:
        assert configs.path_of(name, known) == name
    (train,) = (line for line in GUIDE.splitlines() if line.startswith("silc train"))
    given = flags(CatSegConfig, shlex.split(train)[3:])
    assert set(given) == {"init", "data.train", "out"}


def test_its_numbers_are_the_defaults() -> None:
    config = CatSegConfig()
    optim = config.train.optim
    assert (optim.lr, optim.clip_norm, config.tower_lr, config.train.duration) == (2e-4, 0.01, 0.01, "80k steps")
    assert (config.crop, config.train.batch_size, config.aggregator.window) == (384, 4, 12)
    assert [window_of(n, n, 12) for n in (24, 28, 48, 37)] == [12, 7, 12, 1]


@pytest.mark.parametrize("suffix", set(re.findall(r"-(ov-seg)", GUIDE)))
def test_its_tasks_are_there(suffix: str) -> None:
    assert any(kind.suffix == suffix and kind.by_name for kind in TASKS.values())
