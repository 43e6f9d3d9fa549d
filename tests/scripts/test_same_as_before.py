"""The comparison of two commits sees what differs by one bit; whole comparisons are its own business."""

from __future__ import annotations

import importlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

ROOT = Path(__file__).parents[2]


@pytest.fixture
def same(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    return importlib.import_module("same_as_before")


@pytest.fixture
def pair(finished, tmp_path):
    """A run and its copy."""
    return finished("silc_c"), Path(shutil.copytree(finished("silc_c"), tmp_path / "copy", symlinks=True))


def test_one_bit_of_one_tensor_is_seen(same, pair):
    run, copy = pair
    assert all(said.endswith(" equal") for said in same.compared(run, copy).values())
    file = same.checkpoints(copy)[-1] / "teacher.safetensors"
    tensors = load_file(file)
    name = min(tensors)
    tensors[name].view(-1).view(dtype=tensors[name].dtype)[0] *= 1 + 2**-23
    save_file(tensors, file)
    found = same.compared(run, copy)
    assert found["tensors"] == f"DIFFERS: teacher.safetensors: {name}"
    assert found["metrics"].endswith(" equal")


def test_one_digit_of_one_number_is_seen_and_times_are_not(same, pair):
    run, copy = pair
    records = [json.loads(line) for line in (copy / "metrics.jsonl").read_text().splitlines()]
    for record in records:
        record["samples_per_s"] = 1.0
    write = lambda: (copy / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))  # noqa: E731
    write()
    assert same.compared(run, copy)["metrics"].endswith(" equal")
    before = records[-1]["loss/total"]
    records[-1]["loss/total"] *= 1 + 2**-50
    write()
    said = same.compared(run, copy)["metrics"]
    assert said == f"DIFFERS: step 2 loss/total was {before}, is {records[-1]['loss/total']}"
    del records[-1]["loss/total"]
    write()
    assert same.compared(run, copy)["metrics"] == "DIFFERS: step 2 loss/total is missing"
    assert same.compared(copy, run)["metrics"] == "DIFFERS: step 2 loss/total is new"


def test_rows_that_fail_or_differ_end_in_exit_code_1(same, capsys):
    def fails():
        raise same.Failed("exit code 2: silc: no")

    rows = [("one", lambda: {"metrics": "3 equal"}), ("two", lambda: {"tensors": "DIFFERS: x"}), ("three", fails)]
    assert same.all_equal(iter(rows[:1]))
    for row in rows[1:]:
        assert not same.all_equal(iter([rows[0], row]))
    said = capsys.readouterr().out
    assert "FAILED: exit code 2: silc: no" in said
    assert "1 of 2 rows are equal" in said


@pytest.mark.slow
def test_this_checkout_is_the_same_as_itself(tmp_path):
    command = [sys.executable, ROOT / "scripts/same_as_before.py", ROOT, ROOT, "--only", "silc_c_finetune-tiny"]
    said = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert said.returncode == 0, said.stdout + said.stderr
    assert "2 of 2 rows are equal" in said.stdout
