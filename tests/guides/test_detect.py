"""docs/guides/detect.md: its commands and its Python run on a small model, its flags exist."""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from silc.cli import main
from silc.commands import flags
from silc.heads.detect.config import DetectConfig
from tests.heads.detect.conftest import flags as small_flags
from tests.heads.detect.conftest import write_set

GUIDE = (Path(__file__).parents[2] / "docs" / "guides" / "detect.md").read_text()

pytest.importorskip("faster_coco_eval")


def test_its_commands_and_its_python_run(
    finished: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, silc_data: Path
) -> None:
    shutil.copytree(finished("silc_c"), tmp_path / "out" / "run")
    for split, numbers in (("train2017", range(1, 4)), ("val2017", range(4, 6))):
        write_set(tmp_path / "data" / "coco", split, numbers)
    lvis = tmp_path / "data" / "lvis"
    lvis.mkdir()
    shutil.copy(silc_data / "detection" / "lvis_like" / "lvis_val.json", lvis / "lvis_v1_val.json")
    for photograph in (silc_data / "detection" / "coco_boxes" / "val").iterdir():
        (tmp_path / "data" / "coco" / "val2017" / photograph.name).symlink_to(photograph)
    (tmp_path / "images").mkdir()
    for name in ("images/a.jpg", "street.jpg", "sign.jpg"):
        Image.effect_noise((60, 40), 90).convert("RGB").save(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    (commands,) = re.findall(r"```sh\n(.*?)```", GUIDE, flags=re.DOTALL)
    train, score, predict, export = (shlex.split(line)[1:] for line in commands.splitlines())
    quick = ["--templates", "plain", "--device", "cpu"]
    assert main([*train, *small_flags(**{"train.duration": "1 steps"})]) == 0
    assert main([*score, *quick]) == 0
    assert main([*predict, *quick]) == 0
    assert (tmp_path / "found" / "detections.json").is_file()
    (python,) = re.findall(r"```python\n(.*?)```", GUIDE, flags=re.DOTALL)
    exec(python, {})
    assert (tmp_path / "found.png").is_file()
    # Graphs take seconds; tests/heads/detect/test_export.py makes them by this line.
    assert export == ["export", "out/detect", "out/exported", "--formats", "onnx"]


def test_its_flags_exist() -> None:
    (table,) = re.findall(r"\| to change \| flag \|\n(.*?)\n\n", GUIDE, flags=re.DOTALL)
    found = re.findall(r"`(--[^`]+)`", table)
    assert len(found) == 11
    for line in [*found, "--data.images FOLDER", "--data.train FILE"]:
        flags.parse(DetectConfig, shlex.split(line), "silc train detect")
