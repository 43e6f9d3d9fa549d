"""docs/guides/caption.md: its commands and its Python run on a small model, its flags exist."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from silc.cli import main
from silc.commands import flags
from silc.heads.decoder.config import DecoderConfig
from tests.eval.test_questions import vqav2
from tests.heads.decoder.conftest import COLOURS, painted
from tests.heads.decoder.conftest import flags as small_flags

GUIDE = (Path(__file__).parents[2] / "docs" / "guides" / "caption.md").read_text()


def write_coco(place: Path) -> None:
    """Six captioned images, two of them to score on."""
    entries = []
    for number in range(6):
        name = painted(place / "val2014" / f"{number}.png", number)
        split = "train" if number < 4 else "test"
        own = {"filepath": "val2014", "filename": f"{number}.png", "split": split}
        entries.append({**own, "sentences": [{"raw": f"all {name}"}]})
    (place / "dataset_coco.json").write_text(json.dumps({"images": entries}))


def test_its_commands_and_its_python_run(
    finished: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(finished("silc_c"), tmp_path / "out" / "run")
    write_coco(tmp_path / "data" / "coco")
    vqav2(tmp_path / "data", "train2014")
    vqav2(tmp_path / "data", "val2014")
    (tmp_path / "images").mkdir()
    for name in ("images/a.jpg", "street.jpg", "park.jpg"):
        Image.new("RGB", (60, 40), COLOURS["red"]).save(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    (commands,) = re.findall(r"```sh\n(.*?)```", GUIDE, flags=re.DOTALL)
    train, score, caption, answer, export = (shlex.split(line)[1:] for line in commands.splitlines())
    assert main([*train, *small_flags(**{"train.duration": "1 steps"})]) == 0
    for command in (score, caption, answer):
        assert main([*command, "--device", "cpu"]) == 0
    assert json.loads((tmp_path / "captions.json").read_text())["images"]
    (python,) = re.findall(r"```python\n(.*?)```", GUIDE, flags=re.DOTALL)
    exec(python, {})
    assert export == [
        "export",
        "out/decoder",
        "out/exported",
        "--formats",
        "onnx",
    ]  # tests/heads/decoder/test_export.py


def test_its_flags_exist() -> None:
    (table,) = re.findall(r"\| to change \| flag \|\n(.*?)\n\n", GUIDE, flags=re.DOTALL)
    found = re.findall(r"`(--[^`]+)`", table)
    assert len(found) == 10
    for line in found:
        flags.parse(DecoderConfig, shlex.split(line), "silc train decoder")
