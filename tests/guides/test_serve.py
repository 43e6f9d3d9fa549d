"""docs/guides/serve.md: its Python talks to a real server, its limits are the code's."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from silc.commands.serve import ServeCommand
from silc.serve.config import Limits
from silc.serve.schema import LONGEST_NAME, MOST_NAMES, MOST_PICTURES
from tests.serve.conftest import picture
from tests.serve.test_page import served

GUIDE = (Path(__file__).parents[2] / "docs" / "guides" / "serve.md").read_text()


def test_limits_are_those_of_the_code() -> None:
    limits = Limits()
    for said in (
        f"{limits.picture_bytes // 2**20} MB a file",
        f"{limits.pixels // 10**6} million pixels",
        f"{limits.decode_seconds:g} s and {limits.decode_bytes // 2**30} GiB to decode",
        f"{MOST_NAMES} words of {LONGEST_NAME} characters",
        f"{limits.compute_seconds:g} s to compute",
        f"{limits.waiting} questions that wait",
        f"({limits.kept_bytes // 2**20} MiB in all)",
        f"up to {MOST_PICTURES} for each",
    ):
        assert said in GUIDE
    for flag in set(re.findall(r"`--([a-z-]+)", GUIDE)):
        assert hasattr(ServeCommand, flag.replace("-", "_")) or flag == "host", flag


@pytest.mark.slow
def test_its_python_is_answered(
    finished: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    picture().save("street.jpg")
    (code,) = re.findall(r"```python\n(.*?)```", GUIDE, flags=re.DOTALL)
    with served(str(finished("silc_c"))) as address:
        exec(compile(code.replace("http://127.0.0.1:8000", address.rstrip("/")), "guide", "exec"), {})
    assert "'road': " in capsys.readouterr().out
