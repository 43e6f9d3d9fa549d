"""docs/guides/segment.md: its Python and its commands run on small models, its tables are what the code does."""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from silc.cli import main
from silc.data.scenes import write_sets
from silc.eval.config import LOOK_TWICE
from silc.eval.decoders import DECODERS
from silc.eval.protocols import SLIDING_WINDOW
from silc.eval.sliding import scaled_size, windows
from silc.exports import formats

GUIDE = (Path(__file__).parents[2] / "docs" / "guides" / "segment.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", GUIDE, flags=re.DOTALL)


@pytest.fixture
def place(finished: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with two runs, photographs and sets, where the guide's code is run."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(finished("silc_c"), "out/run")
    shutil.copytree(finished("clip"), "out/other")
    Path("photos").mkdir()
    for name in ("street.jpg", "photos/a.jpg"):
        Image.effect_noise((60, 40), 90).convert("RGB").save(name)
    write_sets(tmp_path / "data", size=24, seed=0, num_retrieval=4, num_segmentation=4, per_class=1)
    return tmp_path


def run_line(line: str) -> None:
    words = shlex.split(line)
    assert words[0] == "silc"
    assert main([*words[1:], *(["--device", "cpu"] if words[1] != "export" else [])]) == 0, line


def test_in_python_and_on_the_command_line(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    exec(compile(blocks("python")[0], "guide", "exec"), {})
    assert "torch.Size([40, 60])" in capsys.readouterr().out
    lines = [line for block in blocks("sh") for line in block.splitlines()]
    assert len(lines) == 5
    for line in lines:
        if " export " not in line:
            run_line(line)
    assert (place / "out/masks/segments.json").is_file()
    assert "against" in (place / "out/run/figures-scenes-zs-seg.html").read_text()
    assert "other against run" in (place / "out/two.figures-scenes-zs-seg.html").read_text()


@pytest.mark.slow
def test_the_graph(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (line,) = (line for block in blocks("sh") for line in block.splitlines() if " export " in line)
    run_line(line)
    exec(compile("\n".join(blocks("python")), "guide", "exec"), {})
    assert "(1, 3, 2, 2)" in capsys.readouterr().out


def test_tables_are_what_the_code_does() -> None:
    rows = re.findall(r"^\| `([\w-]+)` \| (\d+) x (\d+) \| (\d+) of (\d+) \| (\d+) \|$", GUIDE, flags=re.MULTILINE)
    assert {name for name, *_ in rows} == set(SLIDING_WINDOW)
    for name, *numbers in rows:
        rules = SLIDING_WINDOW[name]
        width, height = scaled_size(640, 480, rules)
        placed = windows(height, width, rules.window, rules.stride)
        assert [width, height, len(placed), rules.window, (rules.window // 16) ** 2] == list(map(int, numbers)), name
    table = GUIDE.split("## Which decoder when")[1].split("##")[0]
    named = {
        name
        for row in re.findall(r"^\| (`.*?) \|", table, flags=re.MULTILINE)
        for name in re.findall(r"`([\w-]+)`", row)
    }
    assert named == set(DECODERS)
    assert set(formats.DECODERS) == set(DECODERS) - {"scclip", *LOOK_TWICE}
