"""Text from people and files is shown as it is, wherever it is shown; and a process needs no terminal for it."""

from __future__ import annotations

import ast
import io
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.table import Table

from silc import cli, terminal
from silc.eval.curves import palette_of, training_curves
from silc.eval.report import write_report
from silc.eval.score_table import printed_table
from silc.eval.tables import Column, ModelRow, PaperTable, in_markdown, to_html, to_markdown
from silc.records import Evaluation, Record
from silc.terminal import console, one_line, plain, progress, say

ROOT = Path(__file__).parent.parent
NAMES = (
    "silc[log]",
    "x[/b]",
    "[bold]loud[/bold] [link=http://x]y[/link]",
    ":smile: :warning:",
    "[/]",
    "a\\[b]",
    "{braces} {task.percentage} %s %(name)s",
    "$x_1$ and $\\frac{$",
    "<script>alert('1')</script> & \"quotes\"",
    "a|b *c* `d` _e_",
    "日本語 ünïcode ✓",
    "[red on",
    "_underscore",
)
UNPRINTABLE = {
    "\x1b]0;title\x07\x1b[2J": "\\x1b]0;title\\x07\\x1b[2J",
    "a\rb\bc": "a\\rb\\x08c",
    "bytes\udcff": "bytes\\udcff",
    "right\u202eto left": "right\\u202eto left",
    "c1\x9b31m": "c1\\x9b31m",
}


def test_nothing_else_prints_or_builds_what_prints() -> None:
    """One way in the whole package: `print`, consoles, bars and columns are made in silc/terminal.py alone."""
    made = {"print", "Console", "TextColumn", "TaskProgressColumn"}
    for path in sorted((ROOT / "silc").rglob("*.py")):
        if path.name == "terminal.py":
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id not in made, f"{path}:{node.lineno} calls {node.func.id}"
            if isinstance(node, ast.Attribute):
                assert node.attr != "from_markup", f"{path}:{node.lineno} reads markup"


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_the_same_in_a_line_a_table_and_a_bar(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    say(name)
    assert capsys.readouterr().out == f"{name}\n"
    paper = io.StringIO()
    here = console(file=paper, width=120)
    table = Table(name, "other", title=name, title_justify="left")
    table.add_row(name, "1")
    here.print(table)
    here.print(name)
    assert paper.getvalue().count(name) == 4
    screen = io.StringIO()
    with progress(console(file=screen, width=120, force_terminal=True, color_system=None)) as bar:
        list(bar.track(range(2), description=name))
    assert name in screen.getvalue()
    assert " 100% " in screen.getvalue()
    assert "[progress" not in screen.getvalue()


@pytest.mark.parametrize(("name", "seen"), UNPRINTABLE.items())
def test_control_characters_are_seen_and_not_obeyed(
    name: str, seen: str, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    assert plain(name) == seen
    terminal.complain(f"{name}\nsecond")
    assert capsys.readouterr().err == f"silc: {seen}\\nsecond\n"
    paper = io.StringIO()
    table = Table(name)
    table.add_row(name)
    console(file=paper, width=120).print(table)
    assert paper.getvalue().count(seen) == 2


@pytest.mark.parametrize("name", NAMES[:7])
def test_commands_repeat_what_they_were_given(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["eval", "--list", "--root", name]) == 0
    assert f"Tasks under {name}" in capsys.readouterr().out
    for command in (["train", name], ["data", name], ["plan", name], [name]):
        assert cli.main(command) == 2
        assert name in capsys.readouterr().err


def test_the_doctor_names_extras_whole(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from importlib import metadata

    def absent(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", absent)
    assert cli.main(["doctor"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    for extra in ("log", "interop", "export", "quant"):
        assert f"pip install -e '.[{extra}]'" in out


def evaluation(name: str) -> Evaluation:
    metrics = {"acc1": 0.5}
    return Evaluation(Record(name, "zeroshot_classification", metrics, {"acc1": 0.1}, {"templates": name}, name, name))


@pytest.mark.parametrize("name", [*NAMES, *UNPRINTABLE])
def test_pages_and_tables_show_names_as_they_are(name: str, tmp_path: Path) -> None:
    import html

    both = [evaluation(name), evaluation("other")]
    paper = io.StringIO()
    console(file=paper, width=400).print(printed_table(both))
    assert plain(name) in paper.getvalue()
    history = [{"step": step, f"eval/{name}/{name}/acc1": 0.1 * step} for step in (1, 2)]
    write_report(
        tmp_path / "r.html", title=name, summary=name, evaluations=both, histories={name: history, "other": history}
    )
    page = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert page.count("<script") == 1  # the page's own
    assert html.escape(name.encode(errors="replace").decode(), quote=False).split("\r")[0][:8].strip("'\"") in page
    table = PaperTable("title", "source", [Column(name, "t", "d", "m")], [ModelRow(name, False, [1.0])], [name])
    lines = to_markdown(table).splitlines()
    assert len({line.replace("\\|", "").count("|") for line in lines if line.startswith("|")}) == 1
    assert "<script" not in to_html(table)
    assert "\n" not in in_markdown(name + "\nx")


def test_dollars_and_underscores_in_a_plot_are_no_formula() -> None:
    name = "$\\notacommand{$ _x"
    history = {"$x": [{"step": step, name: step} for step in (1, 2)]}
    ((_, (drawn,)),) = training_curves(history, palette_of(["$x"]))
    assert name in drawn


class Deaf(io.StringIO):
    def __init__(self, error: OSError) -> None:
        super().__init__()
        self.error = error

    def write(self, text: str) -> int:
        raise self.error


def test_a_reader_that_left_ends_no_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", Deaf(BrokenPipeError(32, "Broken pipe")))
    say("to nobody")
    console().print("to nobody")


def test_a_full_disk_behind_stdout_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdout", Deaf(OSError(28, "No space left on device")))
    assert cli.main(["recipes"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize(
    "settings",
    [{"TERM": "dumb"}, {"COLUMNS": "1"}, {"COLUMNS": "0"}, {"COLUMNS": "x"}, {"NO_COLOR": "1"}, {"TERM": "unknown"}],
    ids=str,
)
def test_odd_terminals(
    settings: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    assert cli.main(["show", "clip-tiny"]) == 0
    assert cli.main(["doctor"]) == 0
    assert "Traceback" not in capsys.readouterr().err


SHELL: dict[str, Callable[[str], str]] = {
    "head": lambda silc: f"{silc} show silc_c | head -1 >/dev/null; test ${{PIPESTATUS[0]}} = 0",
    "closed stdin": lambda silc: f"{silc} recipes <&-",
    "closed stdout": lambda silc: f"{silc} recipes >&-",
    "closed stderr": lambda silc: f"{silc} show nothing 2>&-; test $? = 2",
    "ascii": lambda silc: f"LC_ALL=C PYTHONUTF8=0 PYTHONCOERCECLOCALE=0 {silc} eval --list --root 日本語",
    "latin-1": lambda silc: f"PYTHONIOENCODING=latin-1 {silc} eval --list --root 日本語",
    "bytes": lambda silc: f"{silc} eval --list --root $'\\xff'",
}


@pytest.mark.slow
@pytest.mark.parametrize("line", SHELL.values(), ids=SHELL)
def test_processes_without_a_whole_terminal(line: Callable[[str], str]) -> None:
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    command = line(f"{sys.executable} -m silc")
    done = subprocess.run(["bash", "-c", command], env=env, capture_output=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    assert b"Traceback" not in done.stderr
    assert b"Exception ignored" not in done.stderr


def test_a_line_is_one_line() -> None:
    assert one_line("a\nb") == "a\\nb"
