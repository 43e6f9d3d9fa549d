"""The table of tasks: every row is whole, and a row alone brings a task with its settings everywhere."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from silc.eval.layouts import KINDS
from silc.eval.tasks import TASKS, brief

TASK = '''
from dataclasses import dataclass
from typing import Annotated, ClassVar

from silc.settings import Range, Settings


@dataclass(frozen=True)
class BrightConfig(Settings):
    section: ClassVar[str] = "eval.bright"
    limit: Annotated[float, Range(least=0, most=1)] = 0.5
    """Mean above which an image is bright."""
    at_once: Annotated[int, Range(least=1)] = 1
    """Images looked at together."""
'''
EVALUATOR = """
import numpy as np
import torch
from settings import BrightConfig

from silc.eval.bootstrap import Ratios, resampled
from silc.eval.whole_images import OnWholeImages
from silc.records import Evaluation, Record


class Bright(OnWholeImages):
    def protocol(self, model):
        return {"limit": self.config.own(BrightConfig).limit, "num_images": len(self.data.images)}

    def __call__(self, model):
        limit = self.config.own(BrightConfig).limit
        share = Ratios.of_images(torch.tensor([np.asarray(one).mean() > 255 * limit for one in self.data.images]))
        record = Record(self.data.name, "bright", {"share": share.score()}, {}, self.protocol(model), model=model.name)
        return Evaluation(record, resampled=resampled({"share": share}))
"""
RUN = """
import sys

from settings import BrightConfig

from silc.eval.tasks import TASKS, TaskKind

TASKS["bright"] = TaskKind(
    "bright", "Bright images", "classification", {"share": "bright"}, "evaluator:Bright", settings=BrightConfig
)

from pathlib import Path

from silc import config as configs
from silc.cli import main

run, root, out = sys.argv[1:]
assert main(["show", "silc_c", "--eval.bright.limit", "0.125"]) == 0
try:
    main(["eval", "--help"])
except SystemExit:
    pass
there = configs.load(Path(run) / "config.yaml")  # from before there was such a task
assert there.eval.own(BrightConfig) == BrightConfig()
values = configs.to_dict(there)
values["eval"]["bright"] = {"limit": 0.25}
assert configs.from_dict(values).eval.own(BrightConfig).limit == 0.25
asked = ["eval", run, "--root", root, "--cache", "off", "--device", "cpu", "--out", out, "--tasks"]
assert main([*asked, "*-bright", "--bright.limit", "0.375", "--table", "main"]) == 0
assert main([*asked, "*-bright", "--bright.limit", "2"]) == 2
assert main([*asked, "*-bright", "--bright.at-once", "0"]) == 2
assert main(["show", "silc_c", "--eval.bright.limit", "2"]) == 2
assert main([*asked, "*-zs", "--bright.limit", "0.5"]) == 2
"""


@pytest.mark.parametrize("name", TASKS)
def test_a_row_is_whole(name: str) -> None:
    kind = TASKS[name]
    assert kind.data in KINDS
    assert all(brief(metric) for metric in kind.headlines)
    assert not kind.only_tabled or kind.only_tabled in kind.headlines
    if kind.evaluator:
        made = kind.load()
        assert {"name", "data", "config", "progress", "world"} <= set(made.__dataclass_fields__)
        assert ("train" in made.__dataclass_fields__) is kind.trains


def test_a_task_is_known_by_the_end_of_its_name() -> None:
    for one, other in itertools.permutations((kind.suffix for kind in TASKS.values()), 2):
        assert not one.endswith(f"-{other}")


def test_a_row_brings_a_task_with_its_own_settings(finished, root, tmp_path) -> None:
    """Flags, help, config.yaml, ranges, records, report and tables know it, and nothing but the row was written."""
    for name, text in (("settings", TASK), ("evaluator", EVALUATOR), ("run", RUN)):
        (tmp_path / f"{name}.py").write_text(text)
    run = finished("silc_c")
    done = subprocess.run(
        [sys.executable, tmp_path / "run.py", run, root, tmp_path / "scores.json"],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "eval.bright.limit" in done.stdout
    assert "Mean above which an image is bright." in done.stdout
    assert "--bright.limit" in done.stdout
    needed = "is 2.0; needed a number at least 0 and at most 1"
    assert all(f"{name}.limit {needed}" in done.stderr.splitlines() for name in ("silc: --bright", "silc: eval.bright"))
    assert "--bright.at-once is 0; needed" in done.stderr
    assert "--bright.limit: only <set>-bright read it" in done.stderr
    records = json.loads((tmp_path / "scores.json").read_text())
    assert {(one["task"], one["protocol"]["limit"]) for one in records} == {("bright", 0.375)}
    page = (tmp_path / "report.html").read_text()
    assert all(said in page for said in ("Bright images", "Differences on the same images", "limit: 0.375"))
    assert "shapes bright" in (tmp_path / "table-main.md").read_text()
