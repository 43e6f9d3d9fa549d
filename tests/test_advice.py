"""Advice works: every command, flag, path and pip line that a message or a document gives is one that exists.

What runs in other tests (README, guides) is also read here; what cannot run is in `ELSEWHERE`, with the reason.
"""

from __future__ import annotations

import ast
import contextlib
import io
import re
import shlex
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from silc import cli, recipes
from silc import config as configs
from silc.commands import data as data_commands
from silc.commands.plan import PlanCommand
from silc.extras import install
from silc.kinds import heads

ROOT = Path(__file__).parent.parent
DOCUMENTS = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
SOURCES = sorted((ROOT / "silc").rglob("*.py"))
FIELDS = ("train", "finetune", "show", "plan")
ELSEWHERE = {
    "hf": "fetches from a hub",
    "uv": "the Makefile's own",
    "docker": "of the machine",
    "sbatch": "of a cluster",
    "srun": "of a cluster",
    "scontrol": "of a cluster",
    "pip-audit": "asks an advisory service",
    "torchrun": "its own flags; what follows `-m silc` is read",
    "ulimit": "of the shell",
    "mpirun": "of a cluster",
}
"""Programs whose lines are not run, and why."""
OTHERS_FLAGS = {
    *("--shm-size", "--ipc"),  # docker run
    *("--nnodes", "--nproc-per-node", "--max-restarts", "--master-port", "--shutdown-timeout", "--rdzv-endpoint"),
    *("--rdzv-backend", "--rdzv-id", "--node-rank", "--master-addr", "--standalone"),  # torchrun
    *("--help", "--name"),  # a name to be filled in
    "--ignore-zeros",  # tar
}


def blocks(text: str) -> list[str]:
    """Lines of shell blocks, continued ones joined."""
    found = re.findall(r"```sh\n(.*?)```", text, flags=re.DOTALL)
    return [line for block in found for line in block.replace("\\\n", " ").splitlines() if line.strip()]


def spans(text: str) -> list[str]:
    """What stands between single backticks, outside of blocks."""
    text = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    return [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", text)]


def strings(file: Path) -> list[str]:
    """String literals of a module, with X where a value is put in; adjacent ones are one."""
    found, inside = [], set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.JoinedStr):
            inside |= {id(part) for part in node.values}
            found.append("".join(p.value if isinstance(p, ast.Constant) else "X" for p in node.values))  # type: ignore[misc]
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in inside:
            found.append(node.value)
    return found


@cache
def advice() -> list[tuple[str, str]]:
    """(where, line) of everything that is, or could be, a command."""
    found = []
    for file in DOCUMENTS:
        text = file.read_text(encoding="utf-8")
        found += [(file.name, line) for line in (*blocks(text), *spans(text))]
    for file in SOURCES:
        for text in strings(file):
            found += [(file.name, span) for span in spans(text)]
            found += [(file.name, line.strip()) for line in re.findall(r"next: (silc .*)", text)]
    usage = [line.strip() for line in cli.usage().splitlines() if line.startswith("    silc ")]
    found += [("cli.py", line.partition("  ")[0]) for line in usage]  # what it does stands after two spaces
    return found


def words_of(line: str) -> list[str]:
    try:
        return shlex.split(line, comments=True)
    except ValueError:
        return line.split()


@cache
def flags_of(command: str) -> frozenset[str]:
    """Every flag that a command takes; `train NAME` of a trained head takes that one's."""
    if command.startswith("train "):
        head = heads()[command.removeprefix("train ")]()
        return frozenset(f"--{path.replace('_', '-')}" for path, _, _ in configs.fields(head)) | {"--help"}
    fields = {f"--{path.replace('_', '-')}" for path, _, _ in configs.fields(configs.Config())}
    if command in FIELDS:
        own = {"--init", "--mode"} if command == "finetune" else set()
        own |= {f"--{f.replace('_', '-')}" for f in PlanCommand.__dataclass_fields__} if command == "plan" else set()
        return frozenset(fields | own | {"--help"})
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.suppress(SystemExit):
        cli.main([*command.split(), "--help"])
    return frozenset(re.findall(r"--[a-z][\w.-]*", said.getvalue())) | {"--help"}


def silc_lines() -> Iterator[tuple[str, list[str]]]:
    for where, line in advice():
        words = words_of(line)
        if words[:1] == ["silc"] or words[:3] == ["python", "-m", "silc"] or ("-m" in words and "silc" in words):
            yield where, words[words.index("silc") + 1 :]


def test_every_command_of_ours_is_one_and_takes_its_flags() -> None:
    lines = list(silc_lines())
    assert len(lines) > 80
    for where, words in lines:
        if not words or words[0].startswith("-") or words[0] in ("X", "..."):
            continue
        assert words[0] in cli.COMMANDS, f"{where}: silc {' '.join(words)}"
        trains_head = words[0] == "train" and words[1:2] and words[1] in heads()
        command = " ".join(words[:2]) if words[0] == "data" or trains_head else words[0]
        for word in words:
            name, value = word.partition("=")[0], word
            if name.startswith("--") and len(name) > 2:
                positive = re.sub(r"(^--|\.)no-", r"\1", name)
                known = flags_of(command)
                assert name in known or positive in known, f"{where}: {value} of silc {' '.join(words)}"


def test_every_recipe_that_is_named_exists() -> None:
    for where, words in silc_lines():
        if words and words[0] in ("train", "show", "plan") and len(words) > 1:
            for name in words[1:]:
                if name.startswith("-"):
                    break
                if not re.fullmatch(r"X|RECIPE|NAME|\.\.\.|\[.*|.*\.yaml", name):
                    assert (words[0] != "plan" and name in heads()) or recipes.get(name).recipe, f"{where}: {name}"


def test_flags_that_stand_alone_are_some_commands() -> None:
    commands = [
        *(c for c in cli.COMMANDS if c not in ("data", "recipes")),
        *(f"data {name}" for name in data_commands.COMMANDS),
    ]
    commands += [f"train {name}" for name in heads()]
    scripts = "".join(file.read_text(encoding="utf-8") for file in (ROOT / "scripts").rglob("*.py"))
    known = OTHERS_FLAGS.union(*map(flags_of, commands), re.findall(r'"(--[a-z][\w-]*)"', scripts))
    for where, line in advice():
        if re.match(r"--[a-z]", line):
            for flag in re.findall(r"(?<!\S)--[a-z][\w.-]*", line):
                positive = re.sub(r"(^--|\.)no-", r"\1", flag)
                assert flag in known or positive in known, f"{where}: `{line}`"


def extras() -> dict[str, list[str]]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    found: dict[str, list[str]] = project["optional-dependencies"]
    return found


def test_pip_lines_name_extras_of_a_checkout() -> None:
    texts = [file.read_text(encoding="utf-8") for file in (*DOCUMENTS, *SOURCES)]
    lines = [line for text in texts for line in re.findall(r"pip install[^`\n#)]*", text)]
    assert len(lines) >= 5
    lines.remove("pip install {packages}")  # of an installed wheel: tests/test_package.py reads what it becomes
    for line in lines:
        assert "'silc" not in line, f"no index has silc: {line}"
        named = re.search(r"-e (?:\.|'\.\[([^\]]+)\]')$", line.strip())
        assert named, line
        for extra in filter(None, (named[1] or "").split(",")):
            assert extra in extras() or extra == "{extra}", line


def test_extras_asked_for_exist_and_are_used() -> None:
    asked = set()
    for file in SOURCES:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("install", "needs"):
                asked |= {arg.value for arg in node.args[-1:] if isinstance(arg, ast.Constant)}
    from silc.commands.doctor import LIBRARIES

    assert {"log", "interop", "remote"} <= asked
    assert asked | set(LIBRARIES.values()) - {""} <= extras().keys()
    code = "\n".join(f.read_text(encoding="utf-8") for f in (*SOURCES, *(ROOT / "tests").rglob("*.py")))
    for extra, requirements in extras().items():
        names = [re.split(r"[\[<>=,;]", requirement)[0].replace("-", "_") for requirement in requirements]
        assert any(re.search(rf"\b{name.removesuffix('_torch')}\b", code) for name in names), extra
    assert install("log") == "`pip install -e '.[log]'` in silc's checkout"


def test_make_targets_exist() -> None:
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE))
    named = {words[1] for _, line in advice() if (words := words_of(line))[:1] == ["make"] and len(words) > 1}
    assert {"demo", "test", "drill"} <= named
    assert {name for name in named if "=" not in name} <= targets


def test_files_exist() -> None:
    for where, line in advice():
        for path in re.findall(r"(?<![\w/.])((?:docs|scripts|tests|silc|\.ci)/[\w./-]+?)(?=::|[\s,;:)'\"]|$)", line):
            assert (ROOT / path).exists() or list(ROOT.glob(f"{path}.*")), f"{where}: {line}"
        for module in re.findall(r"python -m ((?:scripts|silc)[\w.]*)", line):
            assert any((ROOT / f"{module.replace('.', '/')}{end}").exists() for end in (".py", "/__main__.py")), line


def test_every_other_program_is_known() -> None:
    """Lines of shell blocks begin with one that is read above, or with one whose reason is given."""
    ours = ("silc", "make", "pip", "pytest", "python", "export", "cd", "#", "if", "for", "do", "done", "fi")
    for file in DOCUMENTS:
        for line in blocks(file.read_text(encoding="utf-8")):
            first = next((word for word in words_of(line) if not re.match(r"\w+=", word)), "#")
            assert first in ours or first in ELSEWHERE or first.startswith(("-", "scripts/", "docs/")), (
                f"{file}: {line}"
            )


@pytest.mark.parametrize(
    "wrong",
    ["silc trian silc_c", "silc eval out/run --rot x", "silc plan silc_c --gpuz 4", "silc data check x --sample 3"],
)
def test_a_wrong_line_would_be_noticed(wrong: str, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [*advice(), ("here", wrong)]
    monkeypatch.setitem(globals(), "advice", lambda: lines)
    with pytest.raises(AssertionError, match="here"):
        test_every_command_of_ours_is_one_and_takes_its_flags()
