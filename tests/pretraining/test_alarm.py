"""The collapse alarm: heard at once or after five half-lives, once per episode, never without distillation."""

from __future__ import annotations

import math

import pytest

from silc.pretraining.alarm import CollapseAlarm, half_life

K = 512
MOMENTUM = 2 ** (-1 / 10)  # a half-life of ten steps


def metrics(perplexity: float, share: float) -> dict[str, float]:
    return {"teacher/perplexity": perplexity, "teacher/entropy": share * math.log(K)}


@pytest.mark.parametrize(
    ("step", "perplexity", "share", "heard"),
    [
        (1, 5.0, 0.3, "narrow collapse: the batch uses 5.0 of 512 prototypes (alarm below 5.1)"),
        (1, 5.2, 0.3, ""),
        (49, 500, 0.99, ""),  # a young teacher knows nothing yet
        (51, 500, 0.99, "uniform collapse"),
        (51, 500, 0.97, ""),
        (49, 100, 0.01, ""),
        (51, 100, 0.01, "certain collapse"),
        (51, 100, 0.03, ""),
    ],
)
def test_signs(step: int, perplexity: float, share: float, heard: str) -> None:
    said = CollapseAlarm(K, num_targets=256).check(step, metrics(perplexity, share), MOMENTUM)
    assert said.startswith(heard)
    assert bool(said) == bool(heard)


def test_the_threshold_follows_the_smaller_of_prototypes_and_targets() -> None:
    """256 targets cannot use 1 % of 65,536 prototypes once they are sharp."""
    assert not CollapseAlarm(65_536, num_targets=256).check(1, metrics(13, 0.3), MOMENTUM)
    assert CollapseAlarm(65_536, num_targets=256).check(1, metrics(12, 0.3), MOMENTUM)
    assert CollapseAlarm(65_536, num_targets=32_768).check(1, metrics(600, 0.3), MOMENTUM)
    assert CollapseAlarm(24, num_targets=8).check(1, metrics(1.4, 0.3), MOMENTUM)
    assert not CollapseAlarm(24, num_targets=8).check(1, metrics(1.6, 0.3), MOMENTUM)


def test_heard_once_per_episode_and_kind() -> None:
    alarm = CollapseAlarm(K, num_targets=256)
    readings = [(2.0, 0.3), (3.0, 0.3), (90.0, 0.3), (2.0, 0.3), (90.0, 0.99)]
    said = [alarm.check(60, metrics(*reading), MOMENTUM).partition(" ")[0] for reading in readings]
    assert said == ["narrow", "", "", "narrow", "uniform"]


def test_without_distillation_nothing_is_judged() -> None:
    assert not CollapseAlarm(K, num_targets=256).check(1, {"loss/contrastive": 1.0}, MOMENTUM)


def test_half_life() -> None:
    assert half_life(MOMENTUM) == pytest.approx(10)
    assert half_life(0.0) == 0
    assert half_life(1.0) == math.inf
