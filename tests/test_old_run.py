"""A run whose config.yaml was written by the code of 24 November 2026 goes on as it began, by either command."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from silc import checkpoint, recipes, run
from silc import config as configs
from silc.cli import main
from silc.config import Config
from silc.training.log import history
from tests.data.conftest import encoded, photo, write_tar

OLD = Path(__file__).parent / "configs" / "silc_s-tiny.2026-11-24.yaml"
"""As that code wrote it; its fields are those there were."""
BEGAN = {
    "train.optim.decay": "matrices",
    "objective.scale_max": 100.0,
    "train.precision": "bf16",
    "data.exif_orientation": "ignore",
    "eval.exif_orientation": "ignore",
    "data.image_root": "",
}
"""What was done before there were these fields, or before recipes said otherwise."""


def values(config: Config) -> dict[str, Any]:
    return {path: value for path, value, _ in configs.fields(config)}


def test_an_old_configuration_means_what_it_meant() -> None:
    old, today = values(configs.load(OLD)), values(recipes.get("silc_s-tiny"))
    assert {path: old[path] for path in BEGAN} == BEGAN
    assert "exif" not in OLD.read_text()
    assert "decay:" not in OLD.read_text().replace("weight_decay:", "").replace("layer_decay:", "")
    differing = {path for path in BEGAN if today[path] != BEGAN[path]}
    assert differing >= {"train.optim.decay", "objective.scale_max", "data.exif_orientation"}


def weights(out: Path) -> dict[str, torch.Tensor]:
    saved = checkpoint.read(checkpoint.find(out / "checkpoints")[0])
    return {f"{part}/{name}": tensor for part, tensors in saved.parts.items() for name, tensor in tensors.items()}


@pytest.fixture
def whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, torch.Tensor]:
    """An old run in the folder `run`, cut after its first step, and the weights that it would have ended with."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "shards").mkdir()
    turned = Image.Exif()
    turned[0x0112] = 6  # the camera was held upright: `apply` would give other pixels
    for shard in range(2):
        members = [
            member
            for number in range(shard * 8, shard * 8 + 8)
            for member in (
                (f"{number}.jpg", encoded(photo(number), exif=turned)),
                (f"{number}.txt", f"photo {number}".encode()),
            )
        ]
        write_tar(tmp_path / "shards" / f"{shard:05d}.tar", members)
    run.train(configs.load(OLD))
    found = weights(Path("run"))
    for path in checkpoint.find(Path("run/checkpoints"))[:2]:  # the newest first
        (path / checkpoint.MANIFEST).unlink()
    shutil.copy(OLD, "run/config.yaml")
    return found


def by_its_recipe() -> list[str]:
    """The command that began it: flags for whatever differs from the recipe of its time."""
    old, today = values(configs.load(OLD)), values(recipes.get("silc_s-tiny"))
    flags = ["silc_s-tiny"]
    for path, value in old.items():
        if value != today[path] and path not in (*BEGAN, "recipe", "data.source"):
            flags += [f"--{path.replace('_', '-')}", str(value)]
    return flags


@pytest.mark.parametrize("command", [lambda: ["run/config.yaml"], by_its_recipe], ids=["its config", "its recipe"])
def test_an_old_run_goes_on_as_it_began(whole: dict[str, torch.Tensor], command: Callable[[], list[str]]) -> None:
    """By bits: nothing that was learnt after the first step was learnt in another way."""
    assert main(["train", *command(), "--resume", "auto"]) == 0
    assert {path: values(configs.load(Path("run/config.yaml")))[path] for path in BEGAN} == BEGAN
    assert history(Path("run"))[-1]["step"] == 3
    ended = weights(Path("run"))
    assert ended.keys() == whole.keys()
    assert all(torch.equal(ended[name], tensor) for name, tensor in whole.items())


@pytest.mark.slow
@pytest.mark.parametrize("path", ["train.optim.decay", "data.exif_orientation", "train.precision"])
def test_what_it_began_with_can_be_told_from_what_recipes_say_today(whole: dict[str, torch.Tensor], path: str) -> None:
    """Each of these moves the weights, so that going on with another would be seen above."""
    other = {"train.optim.decay": "kernels", "data.exif_orientation": "apply", "train.precision": "float32"}[path]
    run.train(configs.override(configs.load(OLD), {path: other, "out": "other"}))
    assert any(not torch.equal(tensor, whole[name]) for name, tensor in weights(Path("other")).items())
