"""Runs of before go on as they began, by either command, and load and score as they did.

* `configs/silc_s-tiny.2026-11-24.yaml`: the configuration that the code of 24 November 2026 wrote.
* `fixtures/run-2026-11-28`: a whole run of the code of 28 November 2026, as a process leaves it that was killed after
  its last step and before the last checkpoint: 20 steps of `silc_c-tiny` on generated scenes with masked patches and 8
  pairs held out (env.json has the command), the checkpoint of step 10. `run-2026-11-28.json` has features and scores
  of that checkpoint, by the same code.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import silc
from silc import checkpoint, recipes
from silc import config as configs
from silc.cli import main
from silc.config import Config
from silc.data.scenes import write_sets
from silc.pretraining import run
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
    return {f"{part}/{name}": tensor for part, tensors in saved.state_dicts.items() for name, tensor in tensors.items()}


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


FIXTURE = Path(__file__).parent / "fixtures" / "run-2026-11-28"


@pytest.fixture
def old_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The run of 28 November, in the folder `run`."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(FIXTURE, "run")
    return Path("run")


def test_a_whole_old_run_goes_on_from_its_checkpoint(old_run: Path) -> None:
    """Losses as that code recorded them, within what processors differ by; what came before the checkpoint is kept."""
    recorded = history(old_run)
    assert main(["train", "run/config.yaml", "--resume", "auto"]) == 0
    made = history(old_run)
    assert [record["step"] for record in made] == [record["step"] for record in recorded]
    begun = [record for record in recorded if record["step"] <= 10]
    assert made[: len(begun)] == begun  # times too: no step before the checkpoint was made again
    names = {name for record in recorded for name in record if name.startswith("loss/") or name == "lr"}
    assert names == {"loss/contrastive", "loss/distill", "loss/patches", "loss/total", "lr"}
    for before, now in zip(recorded, made, strict=True):
        assert before.keys() == now.keys()
        for name in names & before.keys():
            assert now[name] == pytest.approx(before[name], rel=1e-4, abs=1e-4), (before["step"], name)


def test_an_old_run_loads_and_scores_as_it_did(old_run: Path) -> None:
    told = json.loads(FIXTURE.with_suffix(".json").read_text())
    ramp = torch.linspace(-1, 1, 3 * 16 * 16).view(1, 3, 16, 16)
    for weights, expected in told.items():
        model = silc.load(old_run, weights=weights, device="cpu")
        text = model.encode_text("red dots and blue stripes")
        assert model.encode_image(ramp)[0].tolist() == pytest.approx(expected["image"], abs=1e-5)
        assert text[0].tolist() == pytest.approx(expected["text"], abs=1e-5)
    write_sets(Path("data"), size=24, seed=0, num_retrieval=12, num_segmentation=4, per_class=1)
    flags = ["--num-pictures", "0", "--cache", "off", "--out", "scores.json"]
    assert main(["eval", "run", "--root", "data", "--tasks", "*-retrieval,*-zs-seg", *flags]) == 0
    records = json.loads(Path("scores.json").read_text())
    assert len(records) == 4
    for record in records:
        assert record["metrics"] == pytest.approx(told[record["weights"]][record["task"]], abs=1e-3)
