"""How long the demo trains: one of two lengths, by the rates of a few steps; its two runs differ in one thing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from silc import config as configs
from silc import demo
from silc.config import Config
from silc.errors import BadInput
from silc.pretraining import run


@pytest.mark.parametrize(
    ("rates", "taken"),
    [([600.0, 300.0], demo.LONG), ([501.0, 126.0], demo.LONG), ([499.0, 124.0], demo.SHORT), ([9.0, 6.0], demo.SHORT)],
)
def test_a_slow_machine_trains_for_less(rates: list[float], taken: str) -> None:
    """20,000 examples at 500 and 125 a second take 40 and 160 seconds."""
    duration, said = demo.chosen(rates, 128)
    assert duration == taken
    assert said.startswith(f"Each was trained for {taken}")
    assert f"{rates[0]:.0f} and {rates[1]:.0f} pairs/s were measured" in said


def test_a_rate_is_measured_and_nothing_left(
    small: Callable[..., Config], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert demo.measured_rate(replace(small("silc_c"), out=str(tmp_path / "trial"))) > 0
    assert not list(tmp_path.iterdir())
    assert not capsys.readouterr().out


@pytest.mark.parametrize(("asked", "taken"), [("", demo.SHORT), ("7 steps", "7 steps")])
def test_what_is_chosen_is_trained_and_said(
    asked: str, taken: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    started = []

    def train(config: Config) -> None:
        started.append(config)
        raise BadInput("far enough")

    monkeypatch.setattr(demo, "measured_rate", lambda config: 50.0)
    monkeypatch.setattr(run, "train", train)
    with pytest.raises(BadInput, match="far enough"):
        demo.main(tmp_path / "demo", duration=asked)
    assert [config.train.duration for config in started] == [taken]
    said = capsys.readouterr().out
    assert f"for {taken} on generated objects" in said
    assert ("50 and 50 pairs/s were measured" in said) == (not asked)


def test_the_arms_differ_in_self_distillation_alone() -> None:
    without, with_it = (configs.flat(demo.arm(name, Path("out"))) for name in demo.ARMS)
    different = {name: with_it[name] for name, value in without.items() if with_it[name] != value}
    assert different == {"recipe": "silc_c-tiny", "objective.distill": True, "objective.weight": 1.0}
