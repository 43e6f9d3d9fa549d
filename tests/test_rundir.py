"""A run from before a setting was made goes on as it began, whatever its recipe says today."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from silc import config as configs
from silc import recipes
from silc.config import Config
from silc.errors import BadInput
from silc.rundir import as_begun, check_same
from silc.training.directory import CONFIG

MADE_LATER = {"data.exif_orientation": "ignore", "train.optim.decay": "matrices"}


def begun_before(now: Config, out: Path) -> None:
    """Write what such a run's config.yaml held when these settings did not exist."""
    values: dict[str, Any] = configs.to_dict(now)
    for path in MADE_LATER:
        *sections, leaf = path.split(".")
        inside = values
        for section in sections:
            inside = inside[section]
        del inside[leaf]
    (out / CONFIG).write_text(yaml.safe_dump(values))


@pytest.mark.parametrize("recipe", ["silc_c-tiny", "silc_s", "finetune-late"])
def test_a_setting_that_a_run_never_had_stays_as_things_were_done_then(recipe: str, tmp_path: Path) -> None:
    now = replace(recipes.get("silc_c" if recipe.startswith("finetune") else recipe), recipe=recipe)
    begun_before(now, tmp_path)
    kept, said = as_begun(now, tmp_path)
    assert configs.to_dict(kept) == configs.to_dict(configs.override(now, MADE_LATER))
    assert all(f"{path} {value}" in said for path, value in MADE_LATER.items())
    check_same(tmp_path, now)


def test_a_setting_that_a_run_had_is_compared(tmp_path: Path) -> None:
    now = replace(recipes.get("silc_c"), recipe="finetune-late")
    begun_before(now, tmp_path)
    with pytest.raises(BadInput, match=r"holds another run: train\.seed is 0 there and 7 here"):
        check_same(tmp_path, configs.override(now, {"seed": 7}))
