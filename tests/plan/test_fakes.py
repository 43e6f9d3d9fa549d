"""Fake tensors that are remembered are those that torch makes, and a step of them is the same step to the byte."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from silc import recipes
from silc.config import Config, override
from silc.plan import step
from silc.plan.fakes import Fakes
from silc.plan.step import measure

aten = torch.ops.aten


@pytest.fixture(autouse=True)
def nothing_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Fakes, "known", {})


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """The operators that torch was asked about."""
    found: list[Any] = []
    dispatch = Fakes.dispatch
    monkeypatch.setattr(Fakes, "dispatch", lambda self, func, *rest: found.append(func) or dispatch(self, func, *rest))
    return found


def shallow(name: str, **fields: object) -> Config:
    config = override(recipes.get(name), fields)
    towers = {"image": replace(config.model.image, depth=2), "text": replace(config.model.text, depth=2)}
    return replace(config, model=replace(config.model, **towers))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "fields", "ranks", "sharded"),
    [
        ("silc_c-tiny", {}, 4, False),
        ("silc_s-tiny", {"precision": "float32", "micro_batch": 4}, 2, True),
        *(
            pytest.param(*slow, marks=pytest.mark.slow)
            for slow in (
                ("clip-tiny", {"precision": "float32"}, 1, False),
                ("silc_s-s16", {"objective.patches": "masked", "objective.contrastive_views": "both"}, 8, True),
                ("siglip-b16", {"model.image.pool": "cls", "optim.freeze": ("text",)}, 8, True),
                ("silc_c", {}, 64, True),
            )
        ),
    ],
)
def test_a_step_is_torchs_step(
    name: str, fields: dict[str, object], ranks: int, sharded: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twice: as it comes, and with everything known."""
    config = shallow(name, **fields)
    ours = [measure(config, batch=12, ranks=ranks, vocab_size=512, sharded=sharded) for _ in range(2)]
    monkeypatch.setattr(step, "Fakes", lambda: FakeTensorMode(allow_non_fake_inputs=True))
    theirs = measure(config, batch=12, ranks=ranks, vocab_size=512, sharded=sharded)
    assert ours == [theirs, theirs]


def test_a_second_step_asks_for_little(asked: list[Any]) -> None:
    config = shallow("silc_c-tiny")
    measure(config, batch=4, ranks=2, vocab_size=512)
    few = len(asked)
    asked.clear()
    measure(config, batch=4, ranks=2, vocab_size=512)
    assert len([func for func in asked if func.namespace == "aten"]) < few / 20


def test_views_share_memory_and_the_rest_does_not(asked: list[Any]) -> None:
    """Also of `_unsafe_view`, whose schema tells of no memory that it shares."""
    with Fakes():
        for known in (False, True, True):
            asked.clear()
            x, weight = torch.empty(2, 3, 4), torch.empty(4)
            made = {
                "view": (aten._unsafe_view(x, [6, 4]), aten.t(x[0]), *aten.split(x, 1)),
                "own": (aten.mul(x, 2.0), *aten.native_layer_norm(x, [4], weight, weight, 1e-5)),
            }
            own = x.untyped_storage()._cdata
            assert {one.untyped_storage()._cdata for one in made["view"]} == {own}
            assert len({one.untyped_storage()._cdata for one in made["own"]} - {own}) == 4
            assert [tuple(one.shape) for one in made["view"]] == [(6, 4), (4, 3), (1, 3, 4), (1, 3, 4)]
            assert made["view"][3].storage_offset() == 12
            assert x.mul_(2) is x
            assert all(type(one) is FakeTensor for ones in made.values() for one in ones)
            assert any(func.namespace == "aten" for func in asked) != known


def test_what_decides_is_in_the_key() -> None:
    with Fakes():
        for _ in range(2):
            x = torch.zeros(3, dtype=torch.int64)
            assert [aten.add(x, one).dtype for one in (1, 1.0, True)] == [torch.int64, torch.float32, torch.int64]
            assert aten._to_copy(x, dtype=torch.float16).dtype == torch.float16
            assert aten.sum(torch.empty(2, 3), [0]).shape == (3,)
            assert aten.sum(torch.empty(2, 3), [1]).shape == (2,)


def test_what_takes_another_shape_is_not_remembered() -> None:
    with Fakes():
        for _ in range(2):
            x = torch.empty(4)
            aten.resize_(x, [9])
            assert x.shape == (9,)
            assert x.untyped_storage().nbytes() == 36
