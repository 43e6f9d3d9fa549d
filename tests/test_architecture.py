"""The house rules, kept by a program."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import re
import tomllib
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any

import pytest

from silc.kinds import KINDS

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "silc"

# A module may import what stands to its left; names between two bars may not import each other, except that a
# package imports itself. `config` modules of packages are torch-free (below) and follow their package.
ORDER = (
    "preprocess images processor terminal regular durable page"
    " | errors batch step encoder"
    " | records settings extras kinds | distributed checkpoint places"
    " | data models losses | objective | training eval | openvocab | config | recipes given"
    " | interop inputs dense | rundir | predict | loading | exports curate | checks | pretraining probes heads"
    " | evaluation results | serve plan demo | commands | cli | __main__"
)
LEVEL = {name: i for i, group in enumerate(ORDER.split(" | ")) for name in group.split()}
TORCH_FREE: tuple[str, ...] = ("errors", "batch", "step", "encoder", "records")
TORCH_FREE += ("settings", "kinds", "recipes", "given", "places", "rundir", "checkpoint", "checks", "cli")
TORCH_FREE += ("data/config", "data/check", "models/config", "models/variants", "losses/config")
TORCH_FREE += ("training/config", "training/directory", "eval/config", "eval/tasks", "eval/asked", "eval/names")
TORCH_FREE += ("interop/sources", "exports/formats", "serve/config", "serve/worker")
TORCH_FREE += tuple(kind.settings.partition(":")[0].removeprefix("silc.").replace(".", "/") for kind in KINDS.values())
TORCH_FREE += tuple(sorted(f"commands/{path.stem}" for path in (PACKAGE / "commands").glob("*.py")))


def modules() -> list[Path]:
    return sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def top(path: Path) -> str:
    """The name in ORDER a file belongs to."""
    relative = path.relative_to(PACKAGE)
    return relative.parts[0] if len(relative.parts) > 1 else relative.stem


def imports(path: Path, *, run_time_only: bool = False) -> set[str]:
    """Dotted names a file imports, relative ones resolved; `run_time_only` leaves out `if TYPE_CHECKING` blocks."""
    tree = ast.parse(path.read_text())
    package = [*path.relative_to(ROOT).parts[:-1]]
    found: set[str] = set()

    def visit(node: ast.AST) -> None:
        if run_time_only and isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            return
        if run_time_only and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            return
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            found.update(f"{module}.{alias.name}" for alias in node.names)
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(tree)
    return found


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_left(path: Path) -> None:
    me = top(path)
    assert me in LEVEL, f"{path.name} has no place in the order; give it one here and in docs/architecture.md"
    for name in imports(path):
        parts = name.split(".")
        if parts[0] != "silc" or len(parts) < 2 or parts[1] == me:
            continue
        other = parts[1]
        assert other in LEVEL, f"{path.name} imports silc.{other}, which has no place in the order"
        assert LEVEL[other] < LEVEL[me], f"{path.relative_to(ROOT)} imports silc.{other}, which stands to its right"


def test_no_circle() -> None:
    """Modules of one package, too, import each other one way.

    Every import counts: one within a function is how a circle is put off, not how it is avoided, and one for types
    alone still means that neither file is read without the other.
    """
    files = {".".join(("silc", *path.relative_to(PACKAGE).with_suffix("").parts)): path for path in modules()}
    files = {name.removesuffix(".__init__"): path for name, path in files.items()}
    graph: dict[str, set[str]] = {
        name: {
            module
            for imported in imports(path)
            for module in (imported, imported.rpartition(".")[0])
            if module in files and module != name
        }
        for name, path in files.items()
    }
    assert graph["silc.data.sources"] >= {"silc.data.shards", "silc.data.folder", "silc.data.scenes", "silc.data.pairs"}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"these import each other: {' -> '.join(error.args[1])}")


def test_the_order_is_the_documented_one() -> None:
    assert ORDER in " ".join((ROOT / "docs" / "architecture.md").read_text().split())


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_the_package_does_without_benchmarks(path: Path) -> None:
    """They come with a checkout alone: the command looks for them when it is called, nothing else knows them."""
    assert not {name for name in imports(path, run_time_only=True) if name.split(".")[0] == "benchmarks"}
    if path.stem != "bench":
        assert not re.search(r"\bbenchmarks\b", path.read_text())


def test_benchmarks_are_not_shipped() -> None:
    setuptools = pytest.importorskip("setuptools")
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    found = setuptools.find_packages(str(ROOT), **settings["packages"]["find"])
    assert {name.split(".")[0] for name in found} == {"silc"}


@pytest.mark.parametrize("name", [*(f"silc/{name}" for name in TORCH_FREE), "benchmarks/suite"])
def test_help_needs_no_torch(name: str) -> None:
    """What `silc train RECIPE --help` imports must not import torch, at any depth."""
    seen: set[str] = set()

    def closure(module: str) -> None:
        path = ROOT / f"{module}.py"
        if not path.is_file():
            path = ROOT / module / "__init__.py"
        if not path.is_file() or module in seen:
            return
        seen.add(module)
        for imported in imports(path, run_time_only=True):
            assert imported.split(".")[0] not in ("torch", "torchvision", "timm"), f"{module} imports {imported}"
            parts = imported.split(".")
            if parts[0] in ("silc", "benchmarks"):
                closure("/".join(parts))
                closure("/".join(parts[:-1]))

    closure(name)
    assert len(seen) >= 1


def test_cat_seg_is_read_in_one_sitting() -> None:
    """Network, training, use and export."""
    assert sum(path.read_text().count("\n") for path in (PACKAGE / "heads/catseg").glob("*.py")) <= 1200


def test_losses_keep_no_state() -> None:
    """Losses are functions: no module, no parameter, no buffer, no global."""
    for path in (PACKAGE / "losses").glob("*.py"):
        tree = ast.parse(path.read_text())
        assert not [n for n in ast.walk(tree) if isinstance(n, ast.Global | ast.Nonlocal)]
        assert not [n for n in ast.walk(tree) if isinstance(n, ast.Attribute) and n.attr in ("Module", "Parameter")]


def test_one_writer_of_teacher_and_centre() -> None:
    """`update` and `update_centre` are called by the objective's after_step and when a run starts, nowhere else."""
    calling = [path for path in modules() if re.search(r"teacher\.update", path.read_text())]
    callers = {path.relative_to(PACKAGE).as_posix() for path in calling}
    assert callers == {"objective.py", "pretraining/origin.py"}
    objective = (PACKAGE / "objective.py").read_text()
    assert objective.count("teacher.update(") == 1
    assert objective.index("def after_step") < objective.index("teacher.update(")


def test_predict_knows_no_trainer() -> None:
    for file in ("predict.py", "loading.py"):
        found = [name for name in imports(PACKAGE / file) if name.startswith("silc.training")]
        assert all(name.startswith("silc.training.directory.") for name in found)  # where things lie in a run


def test_no_attic() -> None:
    assert not [p for p in PACKAGE.rglob("*.py") if p.stem in ("utils", "util", "helpers", "misc", "common")]


def test_functions_are_short_and_take_few_parameters() -> None:
    """At most 60 lines and 8 parameters, `self` and `cls` apart."""
    over = set()
    for path in modules():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                taken = [arg.arg for arg in ast.walk(node.args) if isinstance(arg, ast.arg)]
                num_lines = (node.end_lineno or 0) - node.lineno + 1
                if num_lines > 60 or len([arg for arg in taken if arg not in ("self", "cls")]) > 8:
                    over.add(f"{path.relative_to(PACKAGE).as_posix()}:{node.name}")
    assert not over


def settings(cls: Any) -> list[tuple[str, str]]:
    """(class, field) of every setting, nested ones too."""
    found = []
    hints = importlib.import_module("typing").get_type_hints(cls)
    for f in dataclasses.fields(cls):
        nested = dataclasses.is_dataclass(hints[f.name])
        found += settings(hints[f.name]) if nested else [(cls.__name__, f.name)]
    return found


def test_every_setting_is_read_somewhere() -> None:
    """No dead option: each field's name is read as an attribute outside the file that declares it."""
    reads: dict[str, set[str]] = {}
    for path in modules():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
                reads.setdefault(node.attr, set()).add(path.relative_to(PACKAGE).as_posix())
    dead = []
    for owner, name in {one for kind in KINDS.values() for one in settings(kind.find("settings"))}:
        outside = {p for p in reads.get(name, set()) if not p.endswith("config.py")}
        # Read through properties (scale_init's default, the section of a generated source), or by what batches a probe.
        if not outside and name not in ("scale_init", "objects", "segmentation_batch"):
            dead.append(f"{owner}.{name}")
    assert not dead


def test_method_document_names_what_exists() -> None:
    """docs/method.md sets every equation and constant beside `file.py:name`; each must exist."""
    text = (ROOT / "docs" / "method.md").read_text()
    references = re.findall(r"`(silc/[\w/]+\.py):([\w.]+)`", text)
    assert len(references) > 30
    for file, name in references:
        path = ROOT / file
        assert path.is_file(), file
        inside: Any = ast.parse(path.read_text())
        for part in name.split("."):
            found = [n for n in inside.body if getattr(n, "name", None) == part]
            assert found, f"docs/method.md names {file}:{name}, {part} does not exist"
            inside = found[0]


def test_nothing_names_this_machine() -> None:
    """No committed text holds a path of the machine it was written on or a package index."""
    import subprocess

    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a git checkout")
    for name in listed.stdout.split():
        path = ROOT / name
        if path.suffix in (".py", ".md", ".toml", ".lock", ".sh", ".yaml", ".txt", ".json") and path.is_file():
            text = path.read_text()
            for needle in ("/" + "work/", "/" + "root/", "index" + "-url", "pypi" + ".org/simple"):
                assert needle not in text, f"{name} contains {needle}"


def test_homes_are_looked_up_in_two_places() -> None:
    """Elsewhere `~someone` would end a command with a traceback for users whom the system does not know."""
    callers = {path.name for path in PACKAGE.rglob("*.py") if ".expanduser(" in path.read_text()}
    assert callers == {"index_cache.py", "places.py"}


def test_no_module_hides_a_public_function() -> None:
    """Importing `silc.train` as a module would put it in the place of the function `silc.train`."""
    import silc

    assert not {path.stem if path.suffix else path.name for path in PACKAGE.iterdir()} & set(silc.__all__)


@pytest.mark.parametrize("row", ["global views", "local views", "vocabulary", "batch, examples", "pairs"])
def test_what_the_paper_does_not_say_is_not_marked_as_the_papers(row: str) -> None:
    """Crop areas, 2 + 8 views, vocabulary and batch are quoted by readers alone; 20 B examples are the paper's."""
    lines = [line for line in (ROOT / "docs" / "method.md").read_text().splitlines() if line.startswith(f"| {row} |")]
    assert lines
    for mark in (line.split("|")[3] for line in lines):
        assert "R" in mark
        assert row in ("batch, examples", "pairs") or "P" not in mark.partition("(")[0]
