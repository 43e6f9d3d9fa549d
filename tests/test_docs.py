"""The documentation site, beside what Sphinx finds when it builds it (`make docs`): numbers, code, docstrings."""

from __future__ import annotations

import importlib.util
import json
import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch

from silc.models import readouts
from silc.models.config import ImageTowerConfig
from silc.models.image import ImageTower

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"


def test_the_papers_rows_are_those_that_runs_are_laid_beside() -> None:
    published = json.loads((ROOT / "silc/eval/published.json").read_text())["tables"]["main"]
    text = (DOCS / "models.md").read_text()
    rows = dict(re.findall(r"^\| ([\w*() -]+?) \| ([\d. |]+) \|$", text, flags=re.MULTILINE))
    assert {name: [float(score) for score in scores.split("|")] for name, scores in rows.items()} == {
        row["name"]: [row["scores"][column] for column in published["columns"]] for row in published["rows"]
    }


@pytest.fixture
def tower() -> ImageTower:
    torch.manual_seed(0)
    return ImageTower(ImageTowerConfig(size=32, patch=8, width=32, depth=2, heads=2, pool="map", mlp=64), 32)


def test_the_readout_and_the_decoder_that_are_shown_work(tower: ImageTower, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(readouts.READOUTS, "map", dict(readouts.READOUTS["map"]))
    readout, decoder = re.findall(r"```python\n(.*?)```", (DOCS / "extend.md").read_text(), flags=re.DOTALL)
    names: dict[str, Callable[..., torch.Tensor]] = {}
    exec(compile(readout, "extend.md", "exec"), names)
    images = torch.randn(2, 3, 32, 48)
    without, whole = (tower.dense(images, name) for name in ("no_block+map_value", "map_value"))
    assert without.shape == whole.shape == (2, 4, 6, 32)
    assert not torch.allclose(without, whole)
    exec(compile(decoder, "extend.md", "exec"), names)
    smoothed = names["smoothed"](SimpleNamespace(encode_dense=tower.dense), images, "map_value")
    torch.testing.assert_close(smoothed.norm(dim=-1), torch.ones(2, 4, 6))
    inside = torch.nn.functional.normalize(whole[:, :3, :3].flatten(1, 2).mean(dim=1), dim=-1)
    torch.testing.assert_close(smoothed[:, 1, 1], inside)


@pytest.fixture(scope="module")
def site() -> ModuleType:
    """docs/conf.py, which Sphinx runs (extra `docs`: sphinx, myst_parser, furo)."""
    spec = importlib.util.spec_from_file_location("site_conf", DOCS / "conf.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("what", "docstring", "text"),
    [
        (
            "function",
            "Sum of x.\n\n    a loop\n      inside\n\nMore *words.",
            "Sum of x.\n\n::\n\n    a loop\n      inside\n\nMore \\*words.",
        ),
        ("function", "X.\n\nArgs:\n    x: `a*b` and c*d.", "X.\n\nArgs:\n    x: `a*b` and c\\*d."),
        ("attribute", "Weights: of x.", "\\\nWeights: of x."),
    ],
)
def test_docstrings_are_plain_text(site: ModuleType, what: str, docstring: str, text: str) -> None:
    lines = docstring.split("\n")
    site.docstring_as_text(None, what, "", None, None, lines)
    assert "\n".join(lines) == text
