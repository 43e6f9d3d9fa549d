"""Runs of several kinds: config.yaml says which, and a command that needs another says so in one line."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from silc import config as configs
from silc import recipes
from silc.cli import main
from silc.errors import BadInput
from silc.kinds import KINDS


def test_a_configuration_says_its_kind(tmp_path: Path) -> None:
    config, file = recipes.get("silc_c-tiny"), tmp_path / "config.yaml"
    configs.save(config, file)
    assert file.read_text().startswith("kind: pretrain\n")
    assert configs.load(file) == config
    assert "kind" not in configs.written(file)


def test_one_from_before_there_were_kinds_is_of_pretraining(tmp_path: Path) -> None:
    config, file = recipes.get("silc_c-tiny"), tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(configs.to_dict(config)))
    assert configs.load(file) == config


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("probe", "is of a run of kind 'probe', not of kind 'pretrain'"),
        ("retrieve", f"is of a run of kind 'retrieve', known are {' and '.join(KINDS)}"),
        (["probe"], "is of a run of kind ['probe'], known are"),
    ],
    ids=str,
)
def test_another_kind_is_told_in_one_line(
    kind: object, said: str, finished: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Path(shutil.copytree(finished("silc_c"), tmp_path / "run", symlinks=True))
    values = yaml.safe_load((run / "config.yaml").read_text()) | {"kind": kind}
    (run / "config.yaml").write_text(yaml.safe_dump(values))
    with pytest.raises(BadInput):
        configs.load(run / "config.yaml")
    out = str(tmp_path / "out")
    for command in (
        ["train", str(run / "config.yaml"), "--resume", "auto"],
        ["train", "silc_c-tiny", "--out", str(run), "--resume", "auto"],
        ["finetune", "--init", str(run), "--data.train", "a.tar", "--out", out],
        ["eval", str(run), "--root", str(tmp_path)],
        ["export", str(run), out],
        ["show", str(run / "config.yaml")],
    ):
        assert main(command) == 2, command
        told = capsys.readouterr().err.strip()
        assert said in told, command
        assert ("`silc probe` goes on with it" in told) == (kind == "probe")
        assert "\n" not in told, command
