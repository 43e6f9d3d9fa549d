"""The benchmark's frame: parts by name, turns, ratios, rows that say why they are empty, files."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from rich.console import Console

from benchmarks import start, suite
from benchmarks.measure import CHECKOUT, Row, Target, Turns, extra_memory, in_turns, not_measured
from silc.cli import main
from silc.errors import BadInput

ROWS = [
    Row(4, "memory", 9.5, "x", Target("at least", 5), {"MB": {"ours": 1.0}}),
    Row(7, "time", 1.5, "x", Target("at most", 1.0)),
    not_measured(10, "peak", Target("at least", 0.4), "needs a CUDA device"),
]


def test_parts_by_name() -> None:
    assert suite.chosen(["step", "eval"]) == ["step", "eval"]
    assert set(suite.chosen(["all"])) == {"loader", "step", "losses", "eval", "start"}
    with pytest.raises(BadInput, match="no part 'speed' of the benchmark; it has: start, loader"):
        suite.chosen(["speed"])


def test_an_unknown_part_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "speed"]) == 2
    assert capsys.readouterr().err.startswith("silc: no part 'speed'")


def test_elsewhere_one_line_says_where_the_benchmarks_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An installed package may have another's folder of that name beside it."""
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "benchmarks" / "__init__.py").write_text("raise AssertionError('another project')")
    monkeypatch.setattr("silc.__file__", str(tmp_path / "silc" / "__init__.py"))
    assert main(["bench", "start"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("silc: silc bench needs the folder benchmarks/, which comes with silc's repository")
    assert line.endswith("in a clone of it: `pip install -e .`, then `silc bench`")


def test_a_checkout_has_them_from_any_folder(tmp_path: Path) -> None:
    """As an editable install finds the package alone, in a folder where other benchmarks are."""
    (tmp_path / "benchmarks.py").write_text("raise AssertionError('another project')")
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    script = (
        f"import sys; sys.path.append({str(CHECKOUT)!r}); from silc.cli import main; sys.exit(main(['bench', 'speed']))"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.stderr.startswith("silc: no part 'speed' of the benchmark")


def test_the_rows_of_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run's seconds are those beyond torch's import; every turn has a folder of its own."""
    commands: list[str] = []

    def seconds(command: Callable[[int], Sequence[str]]) -> float:
        commands.append(" ".join(command(3)))
        return {"-m silc --help": 0.3, "-c import torch": 2.0}.get(commands[-1], 4.5)

    monkeypatch.setattr(start, "_cpu_seconds", seconds)
    rows = start.rows(suite.BenchConfig(device="cpu"))
    assert [(row.number, row.value, row.met) for row in rows] == [(13, 0.3, True), (15, 2.5, True)]
    assert commands[-1].endswith("/3")


def test_a_ratio_is_taken_within_turns() -> None:
    """Every turn twice as slow for both: the ratio is the same in each."""
    turns = Turns({"a": [1.0, 2.0, 40.0], "b": [2.0, 4.0, 80.0]})
    assert turns.ratio("b", "a") == 2
    assert turns.median("a") == 2


def test_turns_alternate_after_one_unmeasured_run() -> None:
    calls: list[str] = []
    now = iter(range(100))
    timed = in_turns(
        {"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, turns=2, clock=lambda: float(next(now))
    )
    assert "".join(calls) == "ab" + "ab" + "ba"
    assert timed.seconds == {"a": [1, 1], "b": [1, 1]}


def test_what_comes_before_a_run_and_in_place_of_the_first_is_not_measured() -> None:
    calls: list[str] = []
    now = iter(range(100))
    timed = in_turns(
        {"a": lambda: calls.append("a"), "b": lambda: calls.append("b")},
        turns=1,
        clock=lambda: float(next(now)),
        settle=lambda: calls.append("."),
        before=lambda name: calls.append(name.upper()),
        warm_up={"a": lambda: calls.append("w")},
    )
    assert "".join(calls) == "Aw" + "A.a." + "B.b."
    assert timed.seconds == {"a": [1], "b": [1]}


def test_what_fails_takes_nothing_along(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def rows(config: suite.BenchConfig) -> Iterator[Row]:
        yield from ROWS[::-1]
        raise MemoryError

    monkeypatch.setattr("benchmarks.start.rows", rows)
    with pytest.raises(MemoryError):
        suite.run(suite.BenchConfig(("start",), "cpu", out=str(tmp_path / "bench.json")))
    assert [row["number"] for row in json.loads((tmp_path / "bench.json").read_text())["rows"]] == [4, 7, 10]


def test_images_that_are_not_there_are_told_first() -> None:
    with pytest.raises(BadInput, match="'nowhere"):
        suite.run(suite.BenchConfig(("loader",), "cpu", images="nowhere.tar"))


def test_memory_is_the_highest_beyond_what_was_there() -> None:
    held = extra_memory(lambda: bytearray(b"x" * 50_000_000) and None, "cpu")
    assert 45 < held < 130


def test_rows_say_whether_and_why_not(tmp_path: Path) -> None:
    assert [row.met for row in ROWS] == [True, False, None]
    console = Console(width=120, file=io.StringIO())
    console.print(suite.table(ROWS))
    text = console.file.getvalue()
    assert "9.5 x" in text
    assert ">= 5" in text
    assert "needs a CUDA device" in text
    suite.write(ROWS, {"torch": "2"}, tmp_path / "deep" / "bench.json")
    kept = json.loads((tmp_path / "deep" / "bench.json").read_text())
    assert kept["environment"] == {"torch": "2"}
    assert [row["met"] for row in kept["rows"]] == [True, False, None]
    assert kept["rows"][0]["figures"] == {"MB": {"ours": 1.0}}
