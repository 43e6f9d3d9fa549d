"""Durations and schedules against the formulas."""

from __future__ import annotations

import math

import pytest

from silc import recipes
from silc.errors import BadInput
from silc.pretraining.rates import Schedule
from silc.training.config import OptimConfig, examples_of, steps_of
from silc.training.schedules import cosine, rsqrt


@pytest.mark.parametrize(
    ("text", "steps"),
    [
        ("500 steps", 500),
        ("1 step", 1),
        ("50k steps", 50_000),
        ("5B examples", 305_176),
        ("2.5 epochs", 25),
        ("1epoch", 10),
        ("10%", 20),
        ("12.5 %", 25),
    ],
)
def test_durations(text: str, steps: int) -> None:
    assert steps_of(text, batch_size=16_384, steps_per_epoch=10, total=200) == steps


@pytest.mark.parametrize("text", ["", "5", "five steps", "5 stepz", "-3 steps", "3 hours"])
def test_no_duration(text: str) -> None:
    with pytest.raises(BadInput, match="is no duration; write"):
        steps_of(text, batch_size=8, steps_per_epoch=10)


def test_a_share_of_nothing_is_refused() -> None:
    with pytest.raises(BadInput, match="share of a run"):
        examples_of("10%", batch_size=8, steps_per_epoch=10)


def test_rsqrt_is_the_formula() -> None:
    """1 / sqrt(1 + max(s - w, 0)/10,000) * min(1, s/w) * min(1, (T - s)/c), and never NaN."""
    w, c, total, timescale = 50_000, 50_000, 300_000, 10_000
    for s in range(0, total + 1, 7_919):
        expected = (1 + max(s - w, 0) / timescale) ** -0.5 * min(1, s / w) * min(1, (total - s) / c)
        value = rsqrt(s, warmup=w, cooldown=c, total=total, timescale=timescale)
        assert value == pytest.approx(expected, rel=1e-12)
        assert math.isfinite(value)


def test_rsqrt_halves_after_three_timescales() -> None:
    at = lambda s: rsqrt(s, warmup=100, cooldown=0, total=10**6, timescale=10_000)  # noqa: E731
    assert at(100) == 1
    assert at(100 + 30_000) == pytest.approx(0.5)


def test_cosine_ends_at_zero() -> None:
    assert cosine(0, warmup=10, total=110) == 0
    assert cosine(10, warmup=10, total=110) == 1
    assert cosine(60, warmup=10, total=110) == pytest.approx(0.5)
    assert cosine(110, warmup=10, total=110) == pytest.approx(0, abs=1e-15)


@pytest.mark.parametrize("kind", ["rsqrt", "cosine"])
def test_no_update_has_a_rate_of_zero_and_the_peak_is_reached(kind: str) -> None:
    optim = OptimConfig(lr=0.5, schedule=kind, warmup="10%", cooldown="20%")
    schedule = Schedule.of(optim, total=100, batch_size=8, steps_per_epoch=10, momentum=0.9, temperature=0.04)
    rates = [schedule.at(step).lr for step in range(100)]
    assert min(rates) > 0
    assert max(rates) == pytest.approx(0.5, rel=1e-2)
    assert rates.index(max(rates)) in (9, 10)
    assert rates[:10] == sorted(rates[:10])
    assert rates[10:] == sorted(rates[10:], reverse=True)


def test_momentum_and_temperature_are_fixed() -> None:
    """A momentum that grows to 1 makes the teacher stop learning from the text (paper)."""
    schedule = Schedule.of(
        OptimConfig(), total=200_000, batch_size=8, steps_per_epoch=10, momentum=0.966, temperature=0.04
    )
    assert {(schedule.at(s).momentum, schedule.at(s).temperature) for s in range(50)} == {(0.966, 0.04)}


def test_a_warm_up_longer_than_the_run_is_refused() -> None:
    with pytest.raises(BadInput, match=r"50,000 and a cool-down of 50,000 steps do not fit into a run of 300; shorten"):
        Schedule.of(OptimConfig(), total=300, batch_size=8, steps_per_epoch=10, momentum=0.9, temperature=0.04)


@pytest.mark.parametrize("base", ["silc_c", "silc_c_finetune"])
def test_the_recipes_own_schedules_fit(base: str) -> None:
    train = recipes.get(base).train
    total = steps_of(train.duration, batch_size=train.batch_size, steps_per_epoch=6104)
    schedule = Schedule.of(
        train.optim, total=total, batch_size=train.batch_size, steps_per_epoch=6104, momentum=0.9, temperature=0.04
    )
    assert schedule.at(schedule.warmup).lr == pytest.approx(train.optim.lr, rel=1e-3)
