"""The benchmark's frame: parts by name, turns, ratios, rows that say why they are empty, files."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console

from silc.bench import suite
from silc.bench.measure import Row, Target, Turns, extra_memory, in_turns, not_measured
from silc.cli import main
from silc.types import BadInput

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

    monkeypatch.setattr("silc.bench.start.rows", rows)
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
