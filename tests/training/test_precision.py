"""What precision a run takes, on devices that are fast at bfloat16 and on those that are not."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from silc import config as configs
from silc import recipes
from silc.config import Config
from silc.distributed import World
from silc.errors import BadInput
from silc.pretraining import run
from silc.training import precision
from silc.training.precision import Asked, Choice, Precision, choose, cpu_gain

OLD, NEW = 0.02, 3.7
"""Gains of a processor with AVX2 alone, and of one with instructions for bfloat16."""


@pytest.fixture
def cpu(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Makes this processor one of a given gain."""
    return lambda gain: monkeypatch.setattr(precision, "cpu_gain", lambda: gain)


@pytest.mark.parametrize(
    ("asked", "written", "gain", "taken", "said"),
    [
        ("auto", None, OLD, "float32", "precision: float32; this processor multiplies matrices in bf16 0.02 times as"),
        ("auto", None, 1.4, "float32", "1.4 times as fast"),
        ("auto", None, 1.5, "bf16", "1.5 times as fast"),
        ("auto", None, NEW, "bf16", "precision: bf16; this processor multiplies matrices in bf16 3.7 times as fast"),
        (
            "bf16",
            None,
            OLD,
            "bf16",
            "precision: bf16, as asked for, is slow here: this processor .* 0.02 times as fast",
        ),
        ("bf16", None, 1.1, "bf16", ""),
        ("bf16", None, NEW, "bf16", ""),
        ("float32", None, OLD, "float32", ""),
        ("float32", None, NEW, "float32", ""),
        ("auto", "bf16", OLD, "bf16", "precision: bf16, in which this run began, is slow here: .* 0.02 times as fast"),
        ("auto", "bf16", NEW, "bf16", ""),
        ("auto", "float32", OLD, "float32", ""),
        ("auto", "float32", NEW, "float32", "precision: float32, in which this run began, is slow here: .* 3.7 times"),
        ("float32", "float32", NEW, "float32", ""),
    ],
)
def test_on_a_cpu(
    asked: Asked, written: Precision | None, gain: float, taken: str, said: str, cpu: Callable[[float], None]
) -> None:
    cpu(gain)
    found = choose(asked, World(), written)
    assert found.precision == taken
    assert (found.said == "") == (said == "")
    assert re.search(said, found.said)


@pytest.mark.parametrize(("has", "taken", "slow"), [(True, "bf16", "float32"), (False, "float32", "bf16")])
def test_on_a_gpu(has: bool, taken: str, slow: Precision, monkeypatch: pytest.MonkeyPatch) -> None:
    """Emulated bfloat16 is none."""
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "A card")
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: has or including_emulation)
    world = World(device=torch.device("cuda", 0))
    assert choose("auto", world).precision == taken
    assert "slow here: A card has" in choose("auto", world, slow).said


def test_every_rank_takes_the_first_ones_answer(cpu: Callable[[float], None]) -> None:
    cpu(OLD)
    answer = Choice("bf16", "")

    @dataclass(frozen=True)
    class Second(World):
        def from_main(self, value: Any) -> Any:
            assert value is None  # it does not try
            return answer

    assert choose("auto", Second(rank=1, size=2)) == answer


def test_the_trial_leaves_the_threads_alone() -> None:
    before = torch.get_num_threads()
    assert 0 < cpu_gain() < 1000
    assert torch.get_num_threads() == before


def test_recipes_ask_and_the_default_is_the_old_one() -> None:
    assert Config().train.precision == "bf16"
    assert {recipes.get(name).train.precision for name in recipes.names()} == {"auto"}
    base = Config()
    for mode in recipes.MODES:
        assert recipes.continued("x", base.model, base.pixels, "softmax", mode).train.precision == "auto"


def test_a_run_keeps_what_it_began_in(
    small: Callable[..., Config], tmp_path: Path, cpu: Callable[[float], None], capsys: pytest.CaptureFixture[str]
) -> None:
    """`auto` is written as what it became, and what is written goes on, whatever the machine is by then."""
    out = tmp_path / "run"
    config = small("clip", duration="2 steps", out=out, precision="auto", save_every="1 steps")
    cpu(OLD)
    run.train(config)
    assert configs.load(out / "config.yaml").train.precision == "float32"
    assert "precision: float32; this processor" in capsys.readouterr().out
    cpu(NEW)
    run.train(replace(config, resume="auto"))
    assert configs.load(out / "config.yaml").train.precision == "float32"
    assert "precision: float32, in which this run began, is slow here" in capsys.readouterr().out
    asked = replace(config, resume="auto", train=replace(config.train, precision="bf16"))
    with pytest.raises(BadInput, match=r"train\.precision is 'float32' there and 'bf16' here"):
        run.train(asked)


@pytest.mark.parametrize("field", ["bf16", "absent"])
def test_a_run_of_before_goes_on_in_bf16(
    small: Callable[..., Config], tmp_path: Path, cpu: Callable[[float], None], field: str
) -> None:
    out = tmp_path / "run"
    config = small("clip", duration="2 steps", out=out, precision="bf16", save_every="1 steps")
    cpu(NEW)
    run.train(config)
    values = yaml.safe_load((out / "config.yaml").read_text())
    if field == "absent":
        del values["train"]["precision"]
    (out / "config.yaml").write_text(yaml.safe_dump(values, sort_keys=False))
    cpu(OLD)
    run.train(replace(config, resume="auto", train=replace(config.train, precision="auto")))
    assert configs.load(out / "config.yaml").train.precision == "bf16"
