"""The study of planted noise: what is planted, and how it is counted."""

from __future__ import annotations

import importlib
import io
from collections import Counter
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import roc_auc_score

SCRIPTS = Path(__file__).parents[2] / "scripts"


@pytest.fixture
def study(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    pytest.importorskip("pyarrow")
    monkeypatch.syspath_prepend(str(SCRIPTS))
    return importlib.import_module("planted_noise")


@pytest.fixture
def photographs() -> list[bytes]:
    images = []
    for number in range(200):
        out = io.BytesIO()
        pixels = np.random.default_rng(number).integers(0, 256, (4, 5, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((80, 64)).save(out, "JPEG")
        images.append(out.getvalue())
    return images


def test_what_is_planted(study: ModuleType, photographs: list[bytes]) -> None:
    captions = [f"caption {number}" for number in range(200)]
    pairs = study.spoilt(photographs, captions, 0)
    assert Counter(pair.kind for pair in pairs) == {
        "": 130, "mismatch": 30, "copy": 10, "near copy": 10, "tiny": 10, "foreign": 5, "junk": 5
    }  # fmt: skip
    originals = [pair.original for pair in pairs if pair.original >= 0]
    assert len(set(originals)) == 20
    assert not any(pairs[number].kind for number in originals)
    for number, pair in enumerate(pairs):
        same = pair.image == photographs[number], pair.caption == captions[number]
        if pair.kind in ("", "mismatch"):
            assert same == (True, not pair.kind)
        elif pair.kind == "tiny":
            assert max(Image.open(io.BytesIO(pair.image)).size) <= 24
        elif pair.kind == "copy":
            assert (pair.image, pair.caption) == (photographs[pair.original], captions[pair.original])
        elif pair.kind == "near copy":
            assert pair.image not in photographs
            assert pair.caption == captions[pair.original]
        else:
            assert same == (True, False)


def test_how_it_is_counted(study: ModuleType) -> None:
    """Of a copy and its original one may stay, whichever; both are one too many."""
    pairs = [study.Planted(b"", "", kind, original) for kind, original in
             [("", -1), ("", -1), ("", -1), ("copy", 1), ("near copy", 2), ("tiny", -1)]]  # fmt: skip
    assert study.told({0, 1, 2, 3, 4, 5}, pairs) == (50, 100, {"copy": 0, "near copy": 0, "tiny": 0})
    precision, recall, gone = study.told({0, 3, 2, 4}, pairs)
    assert (precision, recall) == (75, 100)
    assert gone == {"copy": 100, "near copy": 0, "tiny": 100}
    assert study.told({1, 5}, pairs)[:2] == (50, pytest.approx(100 / 3))


def test_area_is_scikit_learns(study: ModuleType) -> None:
    rng = np.random.default_rng(0)
    scores, clean = rng.integers(0, 9, 60) / 9, rng.random(60) < 0.6
    assert study.area_under(scores, clean) == pytest.approx(100 * roc_auc_score(clean, scores))
