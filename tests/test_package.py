"""The package as it is installed: every file, alone in an environment, without the libraries of any extra."""

from __future__ import annotations

import ast
import json
import re
import shlex
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from collections.abc import Callable, Iterator
from functools import cache
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import silc
from silc import extras

ROOT = Path(__file__).parent.parent
SOURCES = sorted((ROOT / "silc").rglob("*.py"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
GUARDED = (
    *("silc/data/remote.py", "silc/commands/bench.py", "silc/serve/"),
    *("silc/exports/graphs.py", "silc/exports/web.py", "silc/exports/eight_bits.py"),
)
"""Files that import such a library where it was asked for before: by themselves, or by the command they are of."""


def named(requirements: list[str]) -> set[str]:
    return {Requirement(line).name.lower().replace("_", "-") for line in requirements}


installed = cache(metadata.packages_distributions)


def distributions(module: str) -> set[str]:
    found = installed().get(module.partition(".")[0], [])
    return {name.lower().replace("_", "-") for name in found}


def run_time_imports(file: Path) -> Iterator[str]:
    """Top names of the modules that a file imports, except for type checkers alone."""
    for_checkers: set[ast.AST] = set()
    tree = ast.parse(file.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            for_checkers |= {inner for statement in node.body for inner in ast.walk(statement)}
    for node in ast.walk(tree):
        if node in for_checkers:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield str(node.module).partition(".")[0]


def core_libraries() -> set[str]:
    """silc's dependencies and theirs, without extras."""
    found: set[str] = set()
    waiting = [Requirement(line) for line in PROJECT["dependencies"]]
    while waiting:
        asked = waiting.pop()
        if asked.name in found or (asked.marker and not asked.marker.evaluate({"extra": ""})):
            continue
        try:
            waiting += map(Requirement, metadata.requires(asked.name) or ())
        except metadata.PackageNotFoundError:
            continue
        found.add(asked.name)
    return found


def test_libraries_of_extras_are_imported_by_needs_alone() -> None:
    core = named(list(core_libraries()))
    known = sys.stdlib_module_names | {"silc"}
    for file in SOURCES:
        if not (name := str(file.relative_to(ROOT))).startswith(GUARDED):
            for module in run_time_imports(file):
                assert module in known or distributions(module) & core, f"{name}: import {module}; use extras.needs"


def test_the_extra_that_is_named_has_the_library() -> None:
    found = 0
    for file in SOURCES:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "needs":
                _, module, extra = (getattr(arg, "value", None) for arg in (*node.args, *[None] * 3)[:3])
                if isinstance(module, str) and isinstance(extra, str):
                    found += 1
                    brings = named(PROJECT["optional-dependencies"][extra])
                    assert distributions(module) & brings, f"{file.name}: {module} does not come with {extra}"
    assert found > 15


def test_the_version_stands_in_one_place() -> None:
    assert "version" in PROJECT["dynamic"]
    assert "version" not in PROJECT
    for name in ("CITATION.cff", "CHANGELOG.md"):
        assert silc.__version__ in (ROOT / name).read_text(encoding="utf-8"), name


def test_a_wheel_names_the_requirements(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(extras, "__file__", str(tmp_path / "site-packages" / "silc" / "extras.py"))
    lines = [
        'open_clip_torch<5,>=3.3; extra == "interop"',
        "numpy",
        "wandb; extra == 'log'",
        'trackio ; extra == "log"',
    ]
    monkeypatch.setattr(metadata, "requires", lambda name: lines if name == "silc" else None)
    assert extras.install("log") == "`pip install wandb trackio`"
    assert extras.install("interop") == "`pip install 'open_clip_torch<5,>=3.3'`"


# --- built, and installed alone: slow ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with wheel and sdist, built from what git holds; from an sdist, as an installer does."""
    uv = Path(sys.executable).with_name("uv")
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode or not uv.exists():
        pytest.skip("needs a git checkout, and uv beside Python (`make setup` installs it)")
    source = tmp_path_factory.mktemp("source")
    for name in listed.stdout.splitlines():
        if not name.startswith(("tests/", "docs/")) and (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, source / name)
    build = [uv, "build", "--quiet", "--no-build-isolation", "--python", sys.executable]
    subprocess.run(build, cwd=source, check=True, capture_output=True, timeout=300)
    return source / "dist"


@pytest.mark.slow
def test_wheel_and_sdist_hold_every_file(built: Path) -> None:
    (wheel,), (sdist,) = built.glob("*.whl"), built.glob("*.tar.gz")
    tracked = subprocess.run(["git", "ls-files", "silc"], cwd=ROOT, capture_output=True, text=True, check=True)
    ours = {name for name in tracked.stdout.splitlines() if (ROOT / name).is_file()}
    assert {"silc/py.typed", "silc/eval/published.json", "silc/page.html.j2"} <= ours
    in_wheel = set(zipfile.ZipFile(wheel).namelist())
    assert {name for name in in_wheel if ".dist-info/" not in name} == ours
    with tarfile.open(sdist) as archive:
        in_sdist = {name.partition("/")[2] for name in archive.getnames()}
    assert ours <= in_sdist
    assert {"LICENSE", "README.md", "pyproject.toml"} <= in_sdist
    assert wheel.name.split("-")[1] == silc.__version__
    assert wheel.stat().st_size < 2**20


@pytest.fixture(scope="module")
def alone(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Python of an environment with the wheel and silc's dependencies, which are links to those installed here."""
    folder = tmp_path_factory.mktemp("alone")
    uv = Path(sys.executable).with_name("uv")
    subprocess.run([uv, "venv", "--quiet", "--python", sys.executable, folder / "env"], check=True)
    python = folder / "env" / "bin" / "python"
    (wheel,) = built.glob("*.whl")
    subprocess.run(
        [uv, "pip", "install", "--quiet", "--no-deps", "--offline", "--python", python, wheel], check=True, cwd=folder
    )
    (site,) = (folder / "env" / "lib").glob("python*/site-packages")
    for library in core_libraries():
        for file in metadata.files(library) or ():
            link = site / file.parts[0]
            if file.parts[0] not in ("..", "__pycache__") and not link.exists():
                link.symlink_to(Path(str(metadata.distribution(library).locate_file(file.parts[0]))))
    return python


DRIVER = """
import contextlib, io, json, sys
from silc import cli
results = []
for words in json.load(sys.stdin):
    said, heard = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(heard):
        try:
            code = cli.main(words)
        except SystemExit as ended:
            code = ended.code
    results.append((code or 0, said.getvalue(), heard.getvalue()))
json.dump(results, sys.stdout)
"""


def commands(python: Path, lines: list[list[str]]) -> list[tuple[int, str, str]]:
    """Exit code, stdout and stderr of each, run one after the other in one process of that environment."""
    done = subprocess.run(
        [python, "-I", "-c", DRIVER], input=json.dumps(lines), cwd=python.parents[2], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return [(code, said, heard) for code, said, heard in json.loads(done.stdout)]


@pytest.mark.slow
def test_help_works_alone(alone: Path) -> None:
    from silc.cli import COMMANDS
    from silc.commands.data import COMMANDS as OF_DATA

    lines = [["--help"], ["--version"], ["recipes"], *([name, "--help"] for name in COMMANDS)]
    lines += [["data", name, "--help"] for name in OF_DATA]
    lines += [["train", name, "--help"] for name in ("silc_c", "catseg", "detect")]
    for words, (code, said, heard) in zip(lines, commands(alone, lines), strict=True):
        assert (code, heard) == (0, ""), words
        assert len(said) > 20, words


@pytest.mark.slow
def test_what_is_missing_is_named_in_one_line_that_installs_it(
    alone: Path, finished: Callable[..., Path], tmp_path: Path
) -> None:
    lines = {
        "interop": ["import", "open_clip:ViT-B-16/datacomp_xl_s13b_b90k", str(tmp_path / "imported")],
        "export": ["export", str(finished("silc_s")), str(tmp_path / "onnx"), "--formats", "onnx"],
        "quant": ["export", str(finished("silc_s")), str(tmp_path / "int8"), "--formats", "int8"],
        "curate": ["data", "score", "a.tar", "--out", str(tmp_path / "scores")],
        "log": ["train", "silc_c-tiny", "--train.trackers", "wandb", "--out", str(tmp_path / "run")],
        "remote": ["data", "check", "https://localhost:9/0.tar", "--out", str(tmp_path / "check")],
    }
    for (extra, words), (code, _, heard) in zip(lines.items(), commands(alone, list(lines.values())), strict=True):
        last = heard.strip().splitlines()[-1]
        assert code == 2, (words, heard)
        assert "Traceback" not in heard
        line = re.search(r"`(pip install [^`]+)`", last)
        assert line, last
        asked = {str(Requirement(one)) for one in shlex.split(line[1])[2:]}
        assert asked == {str(Requirement(one)) for one in PROJECT["optional-dependencies"][extra]}, last
