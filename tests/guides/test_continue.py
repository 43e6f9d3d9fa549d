"""docs/guides/continue.md: its Python runs, its commands run on a small model, its settings exist."""

from __future__ import annotations

import io
import re
import shlex
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from silc import config as configs
from silc.cli import main
from silc.config import Config
from silc.data import scenes
from silc.pretraining import run

GUIDE = (Path(__file__).parents[2] / "docs" / "guides" / "continue.md").read_text()
SHARDS = "/data/pairs/{000..009}.tar"
QUICK = "--train.duration '1 steps' --train.batch-size 8 --train.device cpu --data.workers 0"


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", GUIDE, flags=re.DOTALL)


@pytest.fixture
def place(small: Callable[..., Config], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a trained out/clip, ten shards of pairs and a retrieval set, where the guide's code is run."""
    monkeypatch.chdir(tmp_path)
    run.train(small("clip", duration="2 steps", out="out/clip"))
    (tmp_path / "pairs").mkdir()
    for number in range(10):
        with tarfile.open(tmp_path / "pairs" / f"{number:03d}.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
            for key in range(16):
                buffer = io.BytesIO()
                Image.new("RGB", (24, 20), (number * 20, key * 15, 90)).save(buffer, "JPEG")
                for suffix, data in (("jpg", buffer.getvalue()), ("txt", f"a plain picture number {key}".encode())):
                    header = tarfile.TarInfo(f"{number}-{key}.{suffix}")
                    header.size = len(data)
                    tar.addfile(header, io.BytesIO(data))
    scenes.write_sets(tmp_path / "eval", size=16, seed=0, num_retrieval=6, num_segmentation=2, per_class=1)
    return tmp_path


def here(code: str, place: Path) -> str:
    return code.replace(SHARDS, f"{place}/pairs/{{000..009}}.tar").replace("/data/eval", f"{place}/eval")


def test_the_python_runs(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (code,) = blocks("python")
    names: dict[str, object] = {}
    exec(compile(here(code, place), "continue.md", "exec"), names)
    assert set(names["models"]) == {"student", "teacher"}  # type: ignore[call-overload]
    assert "retrieval among 16 pairs held out" in capsys.readouterr().out


def test_the_commands_run(place: Path) -> None:
    lines = [line for block in blocks("sh") for line in block.splitlines()]
    assert len(lines) == 6
    more = {"finetune": shlex.split(QUICK), "train": [], "eval": ["--device", "cpu"]}
    for line in lines:
        words = shlex.split(here(line, place).replace("20 epochs", "1 epochs"))
        assert words[0] == "silc"
        assert main([*words[1:], *more[words[1]]]) == 0, line
    assert configs.load(place / "out/clip/config.yaml").train.duration == "1 epochs"
    assert configs.load(place / "out/larger/config.yaml").objective.patches == "all"


def test_settings_are_fields() -> None:
    """Every flag between backticks is a field, or a switch, of the configuration."""
    known = {path for path, _, _ in configs.fields(configs.Config())}
    flags = {flag.replace("-", "_") for flag in re.findall(r"`--([\w.-]+)", GUIDE)} - {"init", "mode", "resume"}
    assert len(flags) >= 10
    assert flags <= known
