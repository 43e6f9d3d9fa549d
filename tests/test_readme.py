"""The README as a stranger reads it: its commands run, its Python runs, the paths it names exist."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from silc.cli import main
from silc.commands.flags import configured
from silc.data import object_sets
from tests.data.conftest import sample, write_tar

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`make demo` with a handful of steps and images, in a folder of its own; in full it runs in .ci/run."""
    folder = tmp_path_factory.mktemp("readme")
    few = partial(object_sets.write_sets, num=24, num_train=12, num_retrieval=20)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(object_sets, "write_sets", few)
        assert main(["demo", "--duration", "3 steps"]) == 0
    return folder


def test_the_command_is_there() -> None:
    """The one that `pip install` leaves beside Python; the others of this file run in this process."""
    command = [str(Path(sys.executable).with_name("silc")), "recipes"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert "silc_c" in done.stdout


def test_the_two_commands_are_there() -> None:
    assert "make demo" in README
    assert "make test" in README
    makefile = (ROOT / "Makefile").read_text()
    assert re.search(r"^demo: setup\n\t\$\(BIN\)/silc demo$", makefile, flags=re.MULTILINE)


def test_the_demo_leaves_what_is_promised(demo: Path) -> None:
    out = demo / "out" / "demo"
    for name in ("scores.json", "report.html", "segmentations.png"):
        assert (out / name).stat().st_size > 100, name
    for run in (out / "clip_views_ema", out / "silc_c"):
        for name in ("metrics.jsonl", "config.yaml"):
            assert (run / name).stat().st_size > 100, name
        assert list((run / "checkpoints").glob("step-*/model.safetensors"))
        assert list((run / "tensorboard").glob("events.out.tfevents.*"))
    page = (out / "report.html").read_text()
    # Self-contained: nothing in it is fetched (addresses of XML vocabularies are only names).
    assert not re.findall(r"""(?:src|href)=["'](?!data:|#)[^"']*|@import|url\((?!#|data:)""", page)
    for shown in ("clip_views_ema", "silc_c", "objects_bodies", "objects_unseen"):
        assert shown in page


def test_the_python_runs(demo: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(demo)
    (code,) = blocks("python")
    assert len(code.strip().splitlines()) <= 12
    exec(compile(code, "README.md", "exec"), {"__name__": "__main__"})
    assert "tensor" in capsys.readouterr().out


def commands() -> list[list[str]]:
    """Arguments of every `silc` and `torchrun ... -m silc` line of the README."""
    lines = [line for block in blocks("sh") for line in block.splitlines() if "silc" in line]
    found = [shlex.split(line, comments=True) for line in lines if not line.startswith("make")]
    assert len(found) >= 6
    return [words[words.index("silc") + 1 :] for words in found]


def test_commands_are_understood(demo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every name and value of every command is accepted; those that are quick are run, evaluation on the demo."""
    monkeypatch.chdir(demo)
    inline = [shlex.split(flags) for flags in re.findall(r"`(--[^`]+ [^`]+)`", README)]
    assert inline
    for words in commands():
        if words[0] == "train" and words[1].endswith("config.yaml"):
            silc(words, {"out/s16": "out/demo/silc_c"})
        elif words[0] == "train":
            for extra in ([], *([] if "--train.duration" in words else inline)):
                assert configured("train", [*words[1:], *extra])[0].out in ("out/cc3m", "out/s16")
        elif words[0] == "eval":
            here = {"out/cc3m": "out/demo/silc_c", "/data/eval": "out/demo/data", "voc2012-zs-seg": "objects-zs-seg"}
            silc(words, here)
        elif words[0] == "finetune":
            silc([*words, "--help"], {"hf:google/siglip2-base-patch16-256": "out/demo/silc_c"})
        elif words[0] == "data":
            silc(words, {"/data/cc3m/{00000..00331}.tar": str(write_tar(demo / "00000.tar", sample(0)))})
        elif words[0] == "plan":  # of a smaller recipe: the guide's test prints this one's
            silc(["plan", "silc_c-tiny", *words[2:]], {})
        else:
            silc(words, {})


def silc(words: list[str], here: dict[str, str]) -> None:
    """Run a command of the README with what is here in the places of what it names."""
    for named, instead in here.items():
        words = [word.replace(named, instead) for word in words]
    try:
        code: object = main(words)
    except SystemExit as ended:  # of --help
        code = ended.code
    assert code == 0, words


@pytest.mark.slow
def test_plans_are_what_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    """In full; the head of the longer one."""
    head, table = blocks("text")
    (one,) = [words for words in commands() if words[0] == "plan" and "--pairs" in words]
    assert main(one) == 0
    assert capsys.readouterr().out.startswith(head)
    (command,) = re.findall(r"`silc (plan [^`]+ --cards [^`]+)`", README)
    assert main(shlex.split(command)) == 0
    assert capsys.readouterr().out == table


def test_setting_up_without_cuda_installs_the_rest_of_the_lock() -> None:
    """`make setup TORCH=cpu`; fetching that torch takes a network, so the commands are only shown."""
    show = ["make", "--no-print-directory", "--eval=show:;@$(WITHOUT_CUDA)", "show"]
    kept = subprocess.run(show, capture_output=True, text=True, check=True, cwd=ROOT).stdout
    lock = (ROOT / "requirements.lock").read_text()
    names = [set(re.findall(r"^([\w.-]+)==", text, flags=re.MULTILINE)) for text in (lock, kept)]
    gone = names[0] - names[1]
    assert {"torch", "torchvision", "triton"} <= gone
    assert all(name.startswith(("nvidia-", "cuda-")) for name in gone - {"torch", "torchvision", "triton"})
    assert names[1] < names[0]
    assert set(kept.splitlines()) < set(lock.splitlines())
    assert all("--hash=sha256:" in entry for entry in re.split(r"^(?=\w)", kept, flags=re.MULTILINE)[1:])
    dry = ["make", "--dry-run", "--always-make", "setup", "TORCH=cpu"]
    said = subprocess.run(dry, capture_output=True, text=True, check=True, cwd=ROOT).stdout
    assert "--require-hashes --no-deps --requirement .venv/cpu.lock" in said
    assert "--torch-backend cpu" in said
    assert said.index("--torch-backend cpu") < said.index("cpu.lock")  # what may be out of reach comes first


def test_torch_without_cuda_that_cannot_be_had_is_one_line(tmp_path: Path) -> None:
    for name in ("Makefile", "requirements.lock", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / ".venv/bin").mkdir(parents=True)
    for program, does in (
        ("python", "exit 0"),
        ("uv", "echo 'error: no route' >&2; echo '  cause: asleep' >&2; exit 2"),
    ):
        file = tmp_path / ".venv/bin" / program
        file.write_text(f"#!/bin/sh\n{does}\n")
        file.chmod(0o755)
    command = ["make", "--no-print-directory", "setup", "TORCH=cpu", f"PYTHON={sys.executable}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stdout.splitlines()[-1] == (
        "PyTorch's index of torch without CUDA cannot be had (cause: asleep); `make setup` alone takes the torch of "
        "the lock, .venv/torch.log has the rest"
    )
    assert "no route" not in done.stderr
    assert "no route" in (tmp_path / ".venv/torch.log").read_text()


def test_paths_exist() -> None:
    for path in re.findall(r"`((?:docs|scripts|silc|tests|\.ci)/[\w./-]+)`", README):
        assert (ROOT / path).exists(), path
    for path in re.findall(r"\]\(([\w./-]+)\)", README):
        assert (ROOT / path).exists(), path
