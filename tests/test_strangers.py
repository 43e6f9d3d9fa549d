"""Files made to run code: refused in one line by the commands that would read them, and their canary never sings."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from silc import checkpoint
from silc.cli import main
from silc.config import Config
from silc.pretraining import run


class Payload:
    """Unpickled, it makes the canary file."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.canary}",)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("strangers") / "run"


@pytest.fixture
def theirs(small: Callable[..., Config], trained: Path, tmp_path: Path) -> Path:
    """A run of two steps, as a stranger might hand it on."""
    if not trained.is_dir():
        run.train(small("silc_c", duration="2 steps", save_every="never", out=trained))
    shutil.copytree(trained, tmp_path / "theirs", symlinks=True)
    for name in ("red", "blue"):
        (tmp_path / "data/classification/toy/test" / name).mkdir(parents=True)
        Image.new("RGB", (16, 16), name).save(tmp_path / "data/classification/toy/test" / name / "0.png")
    (tmp_path / "data/classification/toy/classes.txt").write_text("blue\nred\n")
    return tmp_path / "theirs"


def forged(file: Path, data: bytes) -> None:
    """Put other bytes into a checkpoint's file, with a manifest that says they belong there."""
    file.write_bytes(data)
    manifest = json.loads((file.parent / checkpoint.MANIFEST).read_text())
    manifest[file.name] = checkpoint._fingerprint(file)
    (file.parent / checkpoint.MANIFEST).write_text(json.dumps(manifest))


def pickled(canary: Path) -> bytes:
    return pickle.dumps(Payload(canary))


def in_checkpoint(name: str) -> Callable[[Path, Path], None]:
    return lambda theirs, canary: forged(theirs / "checkpoints/step-00000002" / name, pickled(canary))


def in_run(name: str, text: str = "") -> Callable[[Path, Path], None]:
    def harm(theirs: Path, canary: Path) -> None:
        (theirs / name).write_bytes(text.format(canary=canary).encode() or pickled(canary))

    return harm


def distributed_checkpoint(theirs: Path, canary: Path) -> None:
    """What torch's distributed checkpoints look like: a pickle called `.metadata` beside the payload."""
    folder = theirs / "checkpoints/step-00000002"
    for file in folder.iterdir():
        file.unlink()
    (folder / ".metadata").write_bytes(pickled(canary))
    (folder / "__0_0.distcp").write_bytes(pickled(canary))


EVAL, RESUME = (
    ["eval", "{run}", "--root", "{run}/../data"],
    ["train", "{run}/config.yaml", "--resume", "auto", "--out", "{run}"],
)
YAML_CODE = "model: !!python/object/apply:os.system ['touch {canary}']\n"
REMOTE_CODE = '{{"auto_map": {{"AutoTokenizer": "evil.Tokenizer"}}, "eos_token": 7}}'


@pytest.mark.parametrize(
    ("harm", "command", "said"),
    [
        (in_checkpoint("model.safetensors"), EVAL, "model.safetensors is no safetensors file"),
        (in_checkpoint("rng.safetensors"), RESUME, "rng.safetensors is no safetensors file"),
        (in_checkpoint("state.json"), EVAL, "state.json is no JSON"),
        (distributed_checkpoint, EVAL, "holds no finished checkpoint"),
        (distributed_checkpoint, RESUME, "manifest.json is unreadable"),
        (in_run("config.yaml"), EVAL, "cannot read"),
        (in_run("config.yaml", YAML_CODE), EVAL, "could not determine a constructor for the tag"),
        (in_run("config.yaml", YAML_CODE), RESUME, "could not determine a constructor for the tag"),
        (in_run("tokenizer/tokenizer.json"), EVAL, "is no tokenizer.json"),
        (in_run("tokenizer/tokenizer_config.json"), EVAL, "tokenizer_config.json is no JSON"),
    ],
)
def test_refused_in_one_line_and_not_run(
    harm: Callable[[Path, Path], None],
    command: list[str],
    said: str,
    theirs: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    canary = tmp_path / "canary"
    harm(theirs, canary)
    code = main([part.format(run=theirs) for part in command])
    lines = capsys.readouterr().err.splitlines()
    assert code == 2
    assert len(lines) == 1
    assert lines[0].startswith("silc: ")
    assert said in lines[0]
    assert not canary.exists()


def test_the_canary_does_sing(tmp_path: Path) -> None:
    """Or the tests above would prove nothing."""
    pickle.loads(pickled(tmp_path / "canary"))
    assert (tmp_path / "canary").exists()


def test_code_named_in_a_tokenizers_settings_is_not_looked_for(theirs: Path) -> None:
    (theirs / "tokenizer/tokenizer_config.json").write_text(REMOTE_CODE.format())
    from silc.data.tokenizer import BPETokenizer

    assert BPETokenizer.load(theirs / "tokenizer", 8).eos == "</s>"
