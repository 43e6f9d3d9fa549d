"""The README as a stranger reads it: its commands run, its Python runs, the paths it names exist."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from silc.cli import _configured
from tests.data.conftest import sample, write_tar

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`make demo` with a handful of steps, in a folder of its own; in full it runs in .ci/run."""
    folder = tmp_path_factory.mktemp("readme")
    silc("demo --duration '3 steps'", folder)
    return folder


def silc(arguments: str, cwd: Path) -> str:
    env = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", "-c", f"silc {arguments}"], cwd=cwd, env=env, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_two_commands_are_there() -> None:
    assert "make demo" in README
    assert "make test" in README
    makefile = (ROOT / "Makefile").read_text()
    assert re.search(r"^demo: setup\n\t\$\(BIN\)/silc demo$", makefile, flags=re.MULTILINE)


def test_the_demo_leaves_what_is_promised(demo: Path) -> None:
    out = demo / "out" / "demo"
    for name in ("metrics.jsonl", "scores.json", "report.html", "config.yaml"):
        assert (out / name).stat().st_size > 100, name
    assert list((out / "checkpoints").glob("step-*/model.safetensors"))
    assert list((out / "tensorboard").glob("events.out.tfevents.*"))
    page = (out / "report.html").read_text()
    # Self-contained: nothing in it is fetched (addresses of XML vocabularies are only names).
    assert not re.findall(r"""(?:src|href)=["'](?!data:|#)[^"']*|@import|url\((?!#|data:)""", page)
    assert "colour histogram" in page
    assert "scenes_heldout" in page


def test_the_python_runs(demo: Path) -> None:
    (code,) = blocks("python")
    assert len(code.strip().splitlines()) <= 12
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], cwd=demo, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "tensor" in done.stdout


def commands() -> list[list[str]]:
    """Arguments of every `silc` and `torchrun ... -m silc` line of the README."""
    lines = [line for block in blocks("sh") for line in block.splitlines() if "silc" in line]
    found = [shlex.split(line, comments=True) for line in lines if not line.startswith("make")]
    assert len(found) >= 6
    return [words[words.index("silc") + 1 :] for words in found]


def test_commands_are_understood(demo: Path) -> None:
    """Every name and value of every command is accepted; those that are quick are run, evaluation on the demo."""
    inline = [shlex.split(flags) for flags in re.findall(r"`(--[^`]+ [^`]+)`", README)]
    assert inline
    for words in commands():
        if words[0] == "train":
            for extra in ([], *inline):
                assert _configured("train", [*words[1:], *extra]).out == "out/cc3m"
        elif words[0] == "eval":
            given = " ".join(shlex.quote(word) for word in words).replace("out/cc3m", "out/demo")
            silc(given.replace("/data/eval", "out/demo/data").replace("voc2012-zs-seg", "scenes-zs-seg"), demo)
        elif words[0] == "finetune":
            silc(" ".join(words).replace("hf:google/siglip2-base-patch16-256", "out/demo") + " --help", demo)
        elif words[0] == "data":
            given = " ".join(shlex.quote(word) for word in words)
            shard = write_tar(demo / "00000.tar", sample(0))
            silc(given.replace("/data/cc3m/{00000..00331}.tar", str(shard)), demo)
        elif words[0] == "plan":  # of a smaller recipe: the guide's test prints this one's
            silc(" ".join(words).replace("silc_c", "silc_c-tiny"), demo)
        else:
            silc(" ".join(words), demo)


def test_paths_exist() -> None:
    for path in re.findall(r"`((?:docs|scripts|silc|tests|\.ci)/[\w./-]+)`", README):
        assert (ROOT / path).exists(), path
    for path in re.findall(r"\]\(([\w./-]+)\)", README):
        assert (ROOT / path).exists(), path
