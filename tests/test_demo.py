"""How long the demo trains: one of two lengths, by the rate of a few steps."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from silc import demo, recipes
from silc.config import Config
from silc.errors import BadInput
from silc.pretraining import run


@pytest.mark.parametrize(
    ("rate", "taken"), [(400.0, demo.LONG), (119.1, demo.LONG), (119.0, demo.SHORT), (6.0, demo.SHORT)]
)
def test_a_slow_machine_trains_for_less(rate: float, taken: str) -> None:
    """25,000 examples in 210 seconds are 119.05 a second."""
    duration, said = demo.chosen(rate, 128)
    assert duration == taken
    assert said.startswith(f"Trained for {taken}: {rate:.0f} pairs/s were measured")


def test_a_rate_is_measured_and_nothing_left(
    small: Callable[..., Config], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert demo.measured_rate(small("silc_c"), tmp_path / "trial") > 0
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

    monkeypatch.setattr(demo, "measured_rate", lambda config, out: 50.0)
    monkeypatch.setattr(run, "train", train)
    with pytest.raises(BadInput, match="far enough"):
        demo.main(tmp_path / "demo", duration=asked)
    assert [config.train.duration for config in started] == [taken]
    said = capsys.readouterr().out
    assert f"for {taken} on generated scenes" in said
    assert ("50 pairs/s were measured" in said) == (not asked)


def test_the_long_one_is_the_recipes() -> None:
    assert recipes.get(demo.RECIPE).train.duration == demo.LONG == "25k examples"
