"""docs/guides/many-gpus.md: its tables are what `silc plan` prints, its commands are understood, its settings exist."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from silc import config as configs
from silc.cli import main
from silc.commands.flags import configured

ROOT = Path(__file__).parents[2]
GUIDE = (ROOT / "docs" / "guides" / "many-gpus.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", GUIDE, flags=re.DOTALL)


def plans() -> list[tuple[list[str], str]]:
    commands = [shlex.split(line) for block in blocks("sh") for line in block.splitlines() if "silc plan" in line]
    return list(zip(commands, blocks("text"), strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("number", [0, 1])
def test_tables_are_what_is_printed(number: int, capsys: pytest.CaptureFixture[str]) -> None:
    command, table = plans()[number]
    assert main(command[1:]) == 0
    assert capsys.readouterr().out == table


def test_the_commands_are_understood() -> None:
    lines = [shlex.split(line) for block in blocks("sh") for line in block.splitlines()]
    runs = [words for words in lines if "plan" not in words]
    assert len(runs) == 5
    for words in runs:
        if words[0] == "sbatch":
            script = next(i for i, word in enumerate(words) if word.endswith(".sh"))
            assert (ROOT / words[script]).is_file()
            arguments = words[script + 1 :]
        else:
            arguments = words[words.index("silc") + 2 :]
            assert words[words.index("silc") + 1] == "train"
        assert configured("train", arguments)[0].out.endswith("out/run")


def test_settings_are_fields() -> None:
    known = {path for path, _, _ in configs.fields(configs.Config())} | {"resume"}
    flags = {flag.replace("-", "_") for flag in re.findall(r"`--([\w.-]+)", GUIDE)}
    own = {"pairs", "cards", "price", "mfu", "network", "gpus_per_node", "json", "out"}
    assert own <= flags
    assert len(flags - own) >= 6
    assert flags - own <= known
    for inline in re.findall(r"`(--(?:train|data|objective)[^` ]+ [^`]+)`", GUIDE):
        configured("train", ["silc_c", *shlex.split(inline)])
