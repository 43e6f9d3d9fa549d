"""The script for a borrowed GPU: plan, payload, limits, and every part in a tiny setting on a CPU."""

from __future__ import annotations

import importlib
import json
import os
import re
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    return importlib.import_module("gpu")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    for name in ("pretrain64/pre-000000.tar.gz", "segmentation/voc/images/a.jpg", "train/not-this.tar"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(os.urandom(1_000_000))
    return folder


def test_parts_fit_into_their_calls(gpu: Any, tmp_path: Path) -> None:
    plan = gpu.plan(tmp_path, tiny=False)
    order = ["tests", "bench", "ablation", "photographs", "profile"]
    assert [part.name for parts in plan.values() for part in parts] == order
    assert {number: sum(part.seconds for part in parts) <= gpu.SECONDS[number] - 20 for number, parts in plan.items()}
    assert gpu.SECONDS == {1: 9 * 60, 2: 4 * 60}


def test_dry_says_the_plan_and_the_sizes_and_leaves_nothing(
    gpu: Any, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert gpu.main(["pack", str(data), str(tmp_path / "out"), "--dry"]) == 0
    said = capsys.readouterr().out
    assert "call 1: at most 540 s" in said
    assert "-m silc bench step losses eval loader start --device cuda" in said
    assert "pretrain64       1.0 MB" in said
    assert "simplejpeg==" in said
    assert not (tmp_path / "out").exists()


def test_what_is_carried(gpu: Any) -> None:
    names = {one.partition("==")[0] for one in gpu.carried()}
    assert {"simplejpeg", "tyro", "pydantic", "pydantic-core", "pytest", "open-clip-torch", "rich"} <= names
    assert not names & {"torch", "numpy", "silc", "matplotlib", "fonttools", "timm", "nvidia-cublas"}


def test_the_payload(
    gpu: Any, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out, wheel = tmp_path / "out", tmp_path / "some-1.0-py3-none-any.whl"
    out.mkdir()
    wheel.write_bytes(b"zip")
    monkeypatch.setattr(gpu, "fetch", lambda folder: [wheel])
    gpu.main(["pack", str(data), str(out)])
    with tarfile.open(out / "payload.tar.gz") as payload:
        names = payload.getnames()
        commit = payload.extractfile("COMMIT")
        assert commit is not None
        assert len(commit.read()) == 40
    assert {
        f"wheels/{wheel.name}",
        "data/pretrain64/pre-000000.tar.gz",
        "silc/objective.py",
        "tests/conftest.py",
    } <= set(names)
    assert "data/segmentation/voc/images/a.jpg" in names
    assert "data/train/not-this.tar" not in names
    packed = f"{(out / 'payload.tar.gz').stat().st_size / 1e6:.1f} MB"
    assert packed in capsys.readouterr().out
    (out / "payload.tar.gz").unlink()
    monkeypatch.setattr(gpu, "MOST_BYTES", 2_000_000)
    with pytest.raises(SystemExit, match=re.escape(f"gpu: the payload has {packed}; at most 2 travel")):
        gpu.main(["pack", str(data), str(out)])
    assert list(out.iterdir()) == []


def test_a_data_folder_without_what_is_needed(gpu: Any, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="has no folder pretrain64 and no segmentation"):
        gpu.main(["pack", str(tmp_path)])


def test_a_part_that_fails_or_hangs_stops_no_other(gpu: Any, tmp_path: Path) -> None:
    written = "from pathlib import Path; Path('{}/found.json').write_text('1')".format(tmp_path / "call-1")
    parts = [
        gpu.Part("fails", 5, [sys.executable, "-c", "raise SystemExit('no kernel')"]),
        gpu.Part("hangs", 1, ["bash", "-c", "sleep 60 & sleep 60"]),
        gpu.Part("works", 5, [sys.executable, "-c", f"{written}; assert Path('{tmp_path}/call-1.tar.gz').is_file()"]),
    ]
    assert gpu.call(1, tmp_path, tiny=False, parts=parts) == 1
    outcomes = json.loads((tmp_path / "call-1/parts.json").read_text())
    assert [one["outcome"] for one in outcomes] == ["failed (1)", "cut", "done"]
    assert outcomes[1]["seconds"] < 9
    with tarfile.open(tmp_path / "call-1.tar.gz") as kept:
        names = set(kept.getnames())
    assert names == {f"call-1/{name}" for name in ("environment.json", "parts.json", "found.json")} | {
        f"call-1/{name}.log" for name in ("fails", "hangs", "works")
    }
    assert "no kernel" in (tmp_path / "call-1/fails.log").read_text()


def test_no_part_outlasts_its_call(gpu: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "SECONDS", {2: 12.5})
    parts = [gpu.Part(name, 60, ["sleep", "60"]) for name in ("first", "second")]
    gpu.call(2, tmp_path, tiny=False, parts=parts)
    outcomes = json.loads((tmp_path / "call-2/parts.json").read_text())
    assert [one["outcome"] for one in outcomes] == ["cut", "left out"]


def test_the_environment_is_told(gpu: Any) -> None:
    told = gpu.environment()
    assert set(told) >= {"devices (name, driver, memory)", "versions", "commit", "command", "date"}
    assert len(told["commit"]) == 40
    assert {"torch", "timm", "numpy"} <= set(told["versions"])


@pytest.fixture
def there(silc_data: Path, tmp_path: Path) -> Path:
    """The payload's layout, on a machine without matplotlib."""
    folder = tmp_path / "there"
    folder.mkdir()
    for name in ("silc", "benchmarks", "scripts", "tests", "pyproject.toml"):
        (folder / name).symlink_to(ROOT / name)
    (folder / "COMMIT").write_text("0" * 40)
    (folder / "data").symlink_to(silc_data)
    (folder / "absent/matplotlib").mkdir(parents=True)
    (folder / "absent/matplotlib/__init__.py").write_text("raise ImportError('not here')")
    return folder


def tried(there: Path, number: int) -> tuple[Path, dict[str, str]]:
    """Results of a call in the tiny setting, and how its parts ended."""
    env = {"PYTHON": sys.executable, "TINY": "1", "PYTHONPATH": str(there / "absent"), "OMP_NUM_THREADS": "1"}
    command = [str(there / "scripts/gpu.sh"), "--call", str(number), str(there / "results")]
    subprocess.run(command, env={**os.environ, **env}, check=False, cwd=there)
    folder = there / f"results/call-{number}"
    return folder, {one["name"]: one["outcome"] for one in json.loads((folder / "parts.json").read_text())}


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_first_calls_parts_on_a_cpu(there: Path) -> None:
    folder, outcomes = tried(there, 1)
    assert outcomes == dict.fromkeys(("tests", "bench", "ablation"), "done")
    assert (folder / "ablation/clip/seed-0/scores.json").is_file()
    assert json.loads((folder / "bench.json").read_text())["rows"]


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_second_calls_parts_on_a_cpu(there: Path) -> None:
    folder, outcomes = tried(there, 2)
    assert outcomes == dict.fromkeys(("photographs", "profile"), "done")
    scores = json.loads((folder / "photographs/silc_c/seed-0/scores.json").read_text())
    assert {record["weights"] for record in scores} == {"student", "teacher"}
    assert "aten::" in (folder / "profile.txt").read_text()
