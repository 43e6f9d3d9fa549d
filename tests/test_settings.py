"""Every number and duration that can be set: refused by name and range, or legal for a reason, and then it trains."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest

from benchmarks.suite import BenchConfig
from silc import cli, recipes
from silc import config as configs
from silc.checkpoint import find, read
from silc.commands.data_check import CheckCommand
from silc.commands.data_generate import GenerateCommand
from silc.commands.data_score import ScoreCommand
from silc.commands.data_select import SelectCommand
from silc.commands.eval import EvalCommand
from silc.commands.import_model import ImportCommand
from silc.commands.plan import PlanCommand
from silc.commands.predict import PredictCommand
from silc.config import Config
from silc.data.config import CropConfig
from silc.data.tokenizer import BPETokenizer
from silc.distributed import World
from silc.errors import BadInput
from silc.kinds import heads
from silc.models.config import HeadConfig, ImageTowerConfig, TextTowerConfig
from silc.pretraining import run
from silc.pretraining.build import objective_of
from silc.probes.config import ProbeConfig
from silc.settings import Duration, Range, Settings, limits
from silc.training.config import OptimConfig, steps_of
from silc.training.log import history

HUGE = 10**30
TRIED = (0, -1, math.nan, math.inf, -math.inf, HUGE)
OFF, ALL = "nothing of it is done", "as many as there are"
LEGAL: dict[str, dict[float, str]] = {
    "data.crops.num_global": {0: "no such views, where no loss uses them"},
    "data.crops.num_local": {0: "no such views, where no loss uses them"},
    "data.objects.badge": {0: "no such part"},
    "data.objects.contrast": {0: "bodies of one grey"},
    "data.objects.at_home": {0: "none stands on its own ground on purpose"},
    "data.objects.caption_noise": {0: OFF},
    "data.photometric.jitter": {0: OFF},
    "data.photometric.jitter_prob": {0: OFF},
    "data.photometric.grey_prob": {0: OFF},
    "data.photometric.blur_prob": {0: OFF},
    "data.photometric.blur_radius": {0: OFF},
    "data.photometric.solarise_prob": {0: OFF},
    "data.workers": {0: "loads in the training process"},
    "data.remote_patience": {0: "one try"},
    "data.max_bad_rate": {0: "stops at the first broken sample"},
    "pixels.mean": {0: "nothing is subtracted", -1: "added instead, as some models' own"},
    "model.text.vocab_size": {0: "as many as the tokenizer has"},
    "model.teacher.centre_momentum": {0: "the centre is the last batch's mean"},
    "objective.weight": {0: "the loss is told, and nothing learnt from it"},
    "objective.patch_weight": {0: "the loss is told, and nothing learnt from it"},
    "objective.bias_init": {0: "an even start", -1: "a start near it"},
    "train.micro_batch": {0: "all at once"},
    "train.held_out": {0: OFF},
    "train.seed": {0: "a seed like others"},
    "train.keep": {HUGE: ALL},
    "train.max_skips": {HUGE: "never stops for them"},
    "train.optim.betas": {0: "no memory: the sign of each gradient"},
    "train.optim.lora": {0: OFF},
    "train.optim.weight_decay": {0: OFF},
    "train.optim.clip_norm": {HUGE: "no gradient is as long"},
    "train.optim.timescale": {HUGE: "a constant rate"},
    "eval.window": {0: "the protocol's"},
    "eval.background": {0: OFF},
    "eval.confidence": {0: "every pixel"},
    "eval.neighbours": {0: "the authors' number"},
    "eval.max_captions": {0: ALL, HUGE: ALL},
    "eval.num_pictures": {0: OFF},
    "--window": {0: "the protocol's"},
    "--background": {0: OFF},
    "--confidence": {0: "every pixel"},
    "--neighbours": {0: "the authors' number"},
    "--max-captions": {0: ALL, HUGE: ALL},
    "--num-pictures": {0: OFF},
    "--figures": {0: OFF},
    "--score": {0: "every box"},
    "--temperature": {0: "the likeliest word"},
    "--size": {0: "the model's own"},
    "--price": {0: "cards that cost nothing"},
    "--threads": {0: "as many as there are cores"},
    "--samples": {0: ALL, HUGE: ALL},
    "--workers": {0: "reads in this process"},
    "--pictures": {0: OFF},
    "--alpha": {0: "the grey image alone"},
    "--l2": {0: OFF},
    "--feature-cache-gb": {0: OFF},
    "--seed": {0: "a seed like others"},
    "--max-pixels": {HUGE: "images of any size"},
}
AT_LEAST_ONE = {("data score", "--workers"), ("data score", "--threads"), ("probe", "--temperature")}
"""Flags of a name that elsewhere may be 0."""
COMMANDS: dict[str, tuple[type, list[str]]] = {
    "eval": (EvalCommand, ["eval", "run"]),
    "import": (ImportCommand, ["import", "source", "out"]),
    "predict": (PredictCommand, ["predict", "classify", "run", "image.jpg", "--out", "x.json"]),
    "plan": (PlanCommand, ["plan", "clip"]),
    "data check": (CheckCommand, ["data", "check", "x.tar"]),
    "bench": (BenchConfig, ["bench", "losses"]),
    "probe": (ProbeConfig, ["probe", "run"]),
    "data generate": (GenerateCommand, ["data", "generate", "out"]),
    "data score": (ScoreCommand, ["data", "score", "x.tar", "--out", "o"]),
    "data select": (SelectCommand, ["data", "select", "scores", "--keep", "all", "--out", "x.npy"]),
}


def numbers(cls: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Path and plain type of every field that holds numbers."""
    for name, hint in get_type_hints(cls).items():
        if dataclasses.is_dataclass(hint):
            yield from numbers(hint, f"{prefix}{name}.")
        elif {int, float} & {hint, *get_args(hint)}:
            yield f"{prefix}{name}", hint


def required(cls: Any) -> list[str]:
    return [field.name for field in dataclasses.fields(cls) if field.default is dataclasses.MISSING]


def filled(hint: Any, number: float) -> Any:
    """The number, or as many of it as a tuple has."""
    several = [part for part in get_args(hint) if part in (int, float)]
    return (number,) * len(several) if "tuple" in str(hint) else number


def refused(complaint: BadInput, name: str, allowed: object) -> None:
    assert complaint.exit_code == 2
    assert "\n" not in str(complaint)
    assert name in str(complaint)
    assert str(allowed) in str(complaint)


def test_every_number_of_a_configuration_has_a_range() -> None:
    assert {path for path, _ in numbers(Config)} == {path for path, one in limits(Config) if isinstance(one, Range)}


@pytest.mark.parametrize(("path", "hint"), list(numbers(Config)))
def test_numbers_of_a_configuration(path: str, hint: Any) -> None:
    base, allowed = recipes.get("clip-tiny"), dict(limits(Config))[path]
    for number in TRIED:
        given = {path: filled(hint, number)}
        if number in LEGAL.get(path, {}):
            configs.override(base, given)
            continue
        with pytest.raises(BadInput) as complaint:
            configs.override(base, given)
        refused(complaint.value, path, allowed)


OF_HEADS: dict[str, dict[float, str]] = {
    "data.workers": {0: "loads in the training process"},
    "aggregator.window": {HUGE: "the whole grid"},
    "size": {0: "the crop's"},
    "tower_lr": {0: "towers learn nothing"},
    "data.negatives": {0: "the names of the image alone", HUGE: "all there are"},
    "text_lr": {0: "the texts' tower learns nothing"},
    **{f"loss.{name}": {0: OFF} for name in ("classes", "l1", "giou")},
    "loss.alpha": {0: "the names of an object weigh nothing"},
    "loss.gamma": {0: "plain cross-entropy"},
    "hidden": {0: "as wide as the texts' features"},
    "mlp": {0: "four times the width"},
    "dropout": {0: OFF},
    "image_lr": {0: "the tower learns nothing"},
    "contrast": {0: OFF},
    "area": {0: OFF},
    "smooth": {0: OFF},
    "prior": {0: "an empty mask is as good"},
    "mask_bias": {0: "an even start", -1: "a start near it"},
}
"""Legal values among those tried."""
LAYERS = {"layers", "data.mosaics"}
"""Numbers with a rule of their own: blocks of a tower, compared with how many it has; shares that sum to 1."""


@pytest.mark.parametrize(("name", "cls"), heads().items())
def test_numbers_of_trained_heads(name: str, cls: type) -> None:
    own = {path: hint for path, hint in numbers(cls) if path not in dict(numbers(Config))} | {
        path: hint for path, hint in numbers(cls) if path.startswith("data.workers")
    }
    ranges = {path: one for path, one in limits(cls) if isinstance(one, Range)}
    assert own.keys() - ranges.keys() <= LAYERS
    for path, hint in ((path, hint) for path, hint in own.items() if path in ranges):
        for number in TRIED:
            given = {path: filled(hint, number)}
            if number in OF_HEADS.get(path, {}):
                configs.override(cls(), given)
                continue
            with pytest.raises(BadInput) as complaint:
                configs.override(cls(), given)
            said = str(complaint.value)
            assert "\n" not in said
            assert path in said.replace("-", "_")
            assert str(ranges[path]) in said


@pytest.mark.parametrize("name", COMMANDS)
def test_numbers_of_commands(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    cls, args = COMMANDS[name]
    ranges = {path: one for path, one in limits(cls) if isinstance(one, Range)}
    assert {path for path, _ in numbers(cls)} == set(ranges)
    for path, hint in ((path, hint) for path, hint in numbers(cls) if "." not in path):
        flag = f"--{path.replace('_', '-')}"
        assert cli.main([*args, flag, "nan"]) == 2
        said = capsys.readouterr().err
        assert said.count("\n") == 1
        assert flag in said
        assert str(ranges[path]) in said
        for number in TRIED:
            given = {path: filled(hint, number)} | dict.fromkeys(required(cls), "")
            if number in LEGAL.get(flag, {}) and (name, flag) not in AT_LEAST_ONE:
                cls(**given)
                continue
            with pytest.raises(BadInput) as complaint:
                cls(**given)
            refused(complaint.value, flag, ranges[path])


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("--train.optim.clip-norm", "0"),
        ("--train.optim.clip-norm", "-0.5"),
        ("--train.optim.lr", "nan"),
        ("--train.optim.weight-decay", "-1"),
        ("--objective.scale-init", "0"),
        ("--model.text.length", "0"),
        ("--train.batch-size", "1e400"),
        ("--model.teacher.temperature", "-inf"),
        ("--train.max-skips", "0"),
        ("--pixels.std", "0"),
        ("--data.crops.num-local", "1000000"),
    ],
)
def test_flags_of_train(flag: str, value: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = [value] * 3 if flag == "--pixels.std" else [value]
    assert cli.main(["show", "clip-tiny", flag, *words]) == 2
    said = capsys.readouterr().err
    path = flag.removeprefix("--").replace("-", "_")
    assert said.count("\n") == 1
    assert str(dict(limits(Config))[path]) in said


DURATIONS = ("0 steps", "-5 steps", "nan epochs", "1e400 examples", "inf steps", f"{'9' * 400} steps", "2e3 steps")
DURATIONS += ("5", "5 lightyears", "", "0.0 epochs", "101%", "-1%", "5 steps or so", "\u0663 steps")
FREE_OF = {"train.optim.warmup": ("0 steps", "0.0 epochs"), "train.optim.cooldown": ("0 steps", "0.0 epochs")}


@pytest.mark.parametrize("path", [path for path, one in limits(Config) if isinstance(one, Duration)])
def test_durations(path: str) -> None:
    base, allowed = recipes.get("silc_c-tiny"), dict(limits(Config))[path]
    for text in DURATIONS:
        if text in FREE_OF.get(path, ()):
            configs.override(base, {path: text})
            continue
        with pytest.raises(BadInput) as complaint:
            configs.override(base, {path: text})
        refused(complaint.value, path, allowed)
    configs.override(base, {path: "500 steps"})
    assert steps_of("2.5k examples", batch_size=10, steps_per_epoch=7) == 250


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (lambda: CropConfig(global_area=(0.9, 0.4)), r"data.crops.global_area is \(0.9, 0.4\); needed the lower"),
        (lambda: CropConfig(local_area=(0.0, 0.4)), "data.crops.local_area .* needed a number above 0 and at most 1"),
        (lambda: CropConfig(aspect=(2.0, 0.5)), "data.crops.aspect .* needed the lower number first"),
        (lambda: OptimConfig(betas=(0.9, 1.0)), "train.optim.betas .* below 1"),
        (lambda: OptimConfig(lr=0.5, weight_decay=4.0), "product below 1"),
        (lambda: ImageTowerConfig(size=16, patch=32), "model.image.size 16 .*; use 32"),
        (lambda: ImageTowerConfig(width=64, heads=5), "not a multiple of model.image.heads 5"),
        (lambda: ImageTowerConfig(heads=0), "model.image.heads is 0; needed a whole number at least 1"),
        (lambda: TextTowerConfig(length=1), "model.text.length is 1; needed a whole number at least 2"),
        (lambda: TextTowerConfig(depth=2.5), "model.text.depth is 2.5; needed a whole number"),  # type: ignore[arg-type]
        (lambda: HeadConfig(prototypes=1), "model.head.prototypes is 1"),
        (lambda: configs.PixelsConfig(std=(0.5, 0.0, 0.5)), "pixels.std"),
        (lambda: configs.override(recipes.get("clip-tiny"), {"train.batch_size": 1}), "needed at least 2"),
    ],
)
def test_numbers_that_must_fit_each_other(make: Callable[[], object], complaint: str) -> None:
    with pytest.raises(BadInput, match=complaint):
        make()


def legal(which: Callable[[float], bool]) -> dict[str, Any]:
    """Fields at their legal values among those tried."""
    hints = dict(numbers(Config))
    return {
        path: filled(hints[path], number)
        for path, values in LEGAL.items()
        for number in values
        if path in hints and which(number)
    }


EVERYTHING = {"data.photometric.on": True, "objective.patches": "masked"}
VIEWS = {"data.crops.num_global": 0, "data.crops.num_local": 0}


@pytest.mark.parametrize(
    ("recipe", "given"),
    [
        ("silc_s", EVERYTHING | {path: value for path, value in legal(lambda n: n == 0).items() if path not in VIEWS}),
        ("silc_s", EVERYTHING | legal(lambda n: n != 0)),
        ("clip", VIEWS),
    ],
    ids=["zero", "minus one, huge", "no views"],
)
def test_legal_values_train(small: Callable[..., Config], recipe: str, given: dict[str, Any], tmp_path: Path) -> None:
    """Two steps, finite losses, every part of the student changed."""
    config = configs.override(small(recipe, duration="2 steps", out=tmp_path / "run", seed=2**63 - 1), given)
    run.train(config)
    losses = [record["loss/total"] for record in history(tmp_path / "run") if "loss/total" in record]
    assert len(losses) == 2
    assert all(isinstance(loss, float) and math.isfinite(loss) for loss in losses)
    tokenizer = BPETokenizer.load(tmp_path / "run" / "tokenizer", config.model.text.length)
    before = objective_of(config, tokenizer.vocab_size, tokenizer.eos_id, World()).student.state_dict()
    after = read(find(tmp_path / "run" / "checkpoints")[0]).state_dicts["model"]
    assert all(value.isfinite().all() for value in after.values())
    changed = {name for name, value in after.items() if not value.equal(before[name])}
    unused = {"logit_bias"} if config.objective.contrastive == "softmax" else set()
    assert {name.split(".")[0] for name in changed} == {name.split(".")[0] for name in before} - unused


def test_an_older_configuration_loads_unchanged(tmp_path: Path) -> None:
    """Values that sane runs had, some of which no recipe has today."""
    values = {"train": {"device": "cuda", "optim": {"lr": 5e-4, "clip_norm": 0.5}, "seed": 7}, "data": {"workers": 16}}
    (tmp_path / "c.yaml").write_text(str(values))
    assert configs.load(tmp_path / "c.yaml") == configs.from_dict(values)


def test_a_base_without_section_names_flags() -> None:
    assert Settings.named("batch_size") == "--batch-size"
    assert OptimConfig.named("lr") == "train.optim.lr"
