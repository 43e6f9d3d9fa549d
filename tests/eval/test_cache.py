"""Results are kept by what they depend on, and by nothing else."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest

from silc.eval import cache as caching
from silc.eval import suite
from silc.eval.cache import Cache
from silc.eval.config import EvalConfig
from silc.preprocess import Preprocess
from tests.eval.conftest import FOUR


@pytest.fixture
def score(root, oracle, tmp_path):
    """Evaluate with a cache; gives the evaluations and how many of them were computed."""

    def run(config=None, *, checksum="abc", weights="teacher", model=oracle):
        computed = []
        tasks = suite.tasks(config or EvalConfig(root=str(root), tasks=FOUR), lambda what, *_: computed.append(what))
        kept = Cache(tmp_path / "cache", checksum)
        return suite.run({weights: model}, tasks, cache=kept), len(set(computed))

    return run


def test_a_second_time_nothing_is_computed_and_all_is_equal(score):
    (first, computed), (second, again) = score(), score()
    assert (computed, again) == (4, 0)
    assert [e.record for e in first] == [e.record for e in second]
    for a, b in zip(first, second, strict=True):
        assert [(p.group, p.caption, p.image.tobytes()) for p in a.pictures] == [
            (p.group, p.caption, p.image.convert("RGB").tobytes()) for p in b.pictures
        ]


def test_what_makes_a_result_another(score, root, oracle, monkeypatch):
    score()
    config = EvalConfig(root=str(root), tasks=FOUR)
    assert score(checksum="abd")[1] == 4
    assert score(weights="student")[1] == 4
    assert score(replace(config, absent_classes="detectron2"))[1] == 1  # segmentation alone
    assert score(replace(config, classification="clip"))[1] == 2  # not few-shot, not segmentation
    assert score(replace(config, batch_size=7))[1] == 0  # moves no number
    assert score(model=replace(oracle, preprocess=Preprocess(24, interpolation="bilinear")))[1] == 4
    (root / "segmentation/stripes/classes.txt").write_text("background\nw0\nw7\nw22\n")
    assert score()[1] == 1
    os.utime(root / "retrieval/pairs/images/3.png", ns=(1, 1))
    assert score()[1] == 1
    monkeypatch.setattr(caching, "_code", lambda: "other code")
    assert score()[1] == 4


def test_without_a_checksum_nothing_is_kept(score, tmp_path):
    assert score(checksum="")[1] == 4
    assert score(checksum="")[1] == 4
    assert not (tmp_path / "cache").exists()
