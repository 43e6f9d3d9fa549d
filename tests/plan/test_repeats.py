"""A step whose loops go through a few rounds is the step of all rounds, to the byte and to the FLOP."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace

import pytest

from silc import recipes
from silc.config import Config
from silc.losses import contrastive, distill
from silc.plan import repeats
from silc.plan.step import Step, measure


def a_step(config: Config, batch: int, ranks: int, *, sharded: bool) -> Step:
    return measure(config, batch=batch, ranks=ranks, vocab_size=512, sharded=sharded)


def with_all_rounds(config: Config, batch: int, ranks: int, *, sharded: bool) -> Step:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(repeats, "counted", lambda meter: nullcontext())
        return a_step(config, batch, ranks, sharded=sharded)


def recipe(name: str, precision: str, micro_batch: int, **towers: int) -> Config:
    config = recipes.get(name)
    train = replace(config.train, precision=precision, micro_batch=micro_batch)  # type: ignore[arg-type]
    model = config.model
    image, text = replace(model.image, **towers), replace(model.text, **towers)  # type: ignore[arg-type]
    return replace(config, train=train, model=replace(model, image=image, text=text))


@pytest.mark.parametrize(
    ("name", "precision", "micro_batch", "sharded"),
    [
        ("silc_c-tiny", "bf16", 0, False),
        ("silc_s-tiny", "float32", 0, True),
        pytest.param("silc_c-tiny", "float32", 14, True, marks=pytest.mark.slow),
        pytest.param("clip-tiny", "float32", 0, False, marks=pytest.mark.slow),
    ],
)
def test_a_few_rounds_measure_what_all_do(
    name: str, precision: str, micro_batch: int, sharded: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In many blocks of pairs and of prototypes, the last ones smaller, among many ranks."""
    monkeypatch.setitem(distill.BLOCKS, "cpu", (150, 150, 0))
    monkeypatch.setattr(contrastive, "SIDE", 8)
    config = recipe(name, precision, micro_batch, depth=1)
    few, whole = (measured(config, 28, 4, sharded=sharded) for measured in (a_step, with_all_rounds))
    assert few == whole


def test_a_loop_of_the_loss_is_gone_through_in_part(monkeypatch: pytest.MonkeyPatch) -> None:
    """Among 300 ranks a step takes what it takes among three, and sends what 300 do."""
    visits = []
    at = contrastive._Denominator.at
    monkeypatch.setattr(contrastive._Denominator, "at", lambda *args: visits.append(args) or at(*args))
    config = recipe("clip-tiny", "float32", 0, depth=1)
    sent, seen = [], []
    for ranks in (3, 300):
        visits.clear()
        sent.append(a_step(config, 2, ranks, sharded=False).collectives[0].payload)
        seen.append(len(visits))
    assert seen[0] == seen[1]
    assert 3 * sent[1] == 300 * sent[0]


@pytest.mark.parametrize(
    ("shapes", "needed"),
    [
        ("", ""),
        ("a", "a"),
        ("aaaaaaaa", "aaa"),
        ("aaaaaab", "aaaaab"),
        ("abababab", "abab"),
        ("aabaab", "aabaab"),
    ],
)
def test_every_three_in_a_row_come_once(shapes: str, needed: str) -> None:
    found = repeats.needed_rounds(list(shapes))
    assert "".join(shapes[number] for number in sorted(found)) == needed


@pytest.mark.slow
@pytest.mark.parametrize("sharded", [False, True])
@pytest.mark.parametrize(
    ("name", "batch", "ranks", "micro_batch"),
    [("silc_c", 1300, 1, 0), ("silc_c-s16", 2600, 8, 1024), ("silc_s", 2600, 8, 1024), ("clip", 256, 64, 0)],
)
def test_a_few_rounds_of_whole_recipes_measure_what_all_do(
    name: str, batch: int, ranks: int, micro_batch: int, sharded: bool
) -> None:
    config = recipe(name, "float32" if micro_batch else "bf16", micro_batch, depth=1)
    few, whole = (measured(config, batch, ranks, sharded=sharded) for measured in (a_step, with_all_rounds))
    assert few == whole
