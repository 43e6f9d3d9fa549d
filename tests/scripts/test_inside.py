"""The look inside a run: which patches show what, and how much a target tells."""

from __future__ import annotations

import importlib
from itertools import islice
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from sklearn.metrics import mutual_info_score

from silc.data.config import ObjectsConfig
from silc.data.object_sets import World

SCRIPTS = Path(__file__).parents[2] / "scripts"


@pytest.fixture
def inside(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(SCRIPTS))
    return importlib.import_module("inside")


def test_a_patch_shows_what_most_of_its_pixels_show(inside: ModuleType) -> None:
    shown = list(islice(World(ObjectsConfig(size=48), 2).images(1, 1), 6))
    found = inside.what_patches_show(shown, 6)
    met = set()
    for number, (_, layout, drawing) in enumerate(shown):
        for row in range(6):
            for column in range(6):
                pixels = [(y, x) for y in range(8 * row, 8 * row + 8) for x in range(8 * column, 8 * column + 8)]
                ground = sum(drawing.thing[place] < 0 for place in pixels)
                part = found.part[number, row, column]
                assert (part == 3) == (ground >= 0.6 * 64)
                if 0 <= part < 3:
                    own = [place for place in pixels if drawing.part[place] == part]
                    names = {layout.things[drawing.thing[place]].name for place in own}
                    assert len(own) >= 0.6 * 64
                    assert found.name[number, row, column] in names
                met.add(int(part))
        assert (found.ground[number] == layout.ground).all()
    assert met >= {-1, 0, 3}


def test_what_a_target_tells_is_scikit_learns_mutual_information(inside: ModuleType) -> None:
    rng = np.random.default_rng(0)
    x, noise = rng.integers(0, 5, 300), rng.integers(0, 3, 300)
    y = (x + (noise == 0)) % 4
    assert inside._told(x.tolist(), y.tolist()) == pytest.approx(mutual_info_score(x, y) / mutual_info_score(y, y))
    assert inside._told(y.tolist(), y.tolist()) == pytest.approx(1)
    assert inside._told([0] * 300, y.tolist()) == pytest.approx(0, abs=1e-12)


@pytest.mark.slow
def test_a_run_is_looked_into(inside: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import silc

    config = silc.recipe("silc_c-tiny")
    monkeypatch.setattr(inside, "NUM", 40)
    from silc.config import override

    told = {"data.source": "objects", "data.objects.num": 64, "data.workers": 0, "data.vocab_size": 300}
    told |= {"train.batch_size": 8, "train.duration": "2 steps", "out": str(tmp_path / "run")}
    silc.train(override(config, told))
    page = inside.look(tmp_path / "run")
    rows = [line for line in page.splitlines() if line.startswith(("| nearest", "| linear"))]
    assert len(rows) == 2 * (2 + 3)  # student and teacher: two readouts, three blocks
    for row in rows:
        assert all(0 <= float(cell) <= 100 for cell in row.split("|")[2:] if cell.strip())
    assert "prototypes are the largest of one" in page
