"""docs/guides/probe.md: its command runs on a small model, its flags exist, its tasks are what `--list` shows."""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from silc.cli import main
from silc.commands import flags
from silc.eval.tasks import TASKS
from silc.probes.config import ProbeConfig
from tests.probes.test_run import write_probe_sets

GUIDE = (Path(__file__).parents[2] / "docs" / "guides" / "probe.md").read_text()


def test_the_command_runs(finished: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(finished("silc_c"), tmp_path / "out/run")
    write_probe_sets(tmp_path / "data", train=2, test=1, images=2)
    monkeypatch.chdir(tmp_path)
    first, second = re.findall(r"```sh\n(.*?)```", GUIDE, flags=re.DOTALL)
    alone, many = shlex.split(first), shlex.split(second.partition("-m ")[2])
    assert many == [*alone, "--resume", "auto"]
    quick = ["--train.duration", "1 steps", "--train.device", "cpu", "--l2", "0.1", "--segmentation-batch", "2"]
    assert main([*alone[1:], *quick]) == 0
    assert {"scores.json", "report.html", "scenes-linear-seg", "scenes_seen-linear"} == {
        path.name for path in (tmp_path / "out/probe").iterdir()
    }


def test_its_flags_and_tasks_exist() -> None:
    table = re.findall(r"\| `(--[^`]+)`", GUIDE)
    assert len(table) == 4
    for line in [*table, "--segmentation-batch 32", "--held-back 0.1", "--tasks '*-knn,flowers-linear'"]:
        flags.parse(ProbeConfig, shlex.split(line), "silc probe")
    assert {f"<set>-{kind.suffix}" for kind in TASKS.values() if not kind.evaluator} == set(
        re.findall(r"\| `(<set>-[\w-]+)`", GUIDE)
    )
