"""What `silc serve` refuses before it loads anything."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from silc.cli import main


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([], "silc serve needs a model"),
        (["nowhere"], "nowhere is no model"),
        (["RUN", "--port", "70000"], "--port"),
        (["RUN", "--host", "no.such.host.invalid"], "is no address of this machine"),
        (["RUN", "--token-file", "nowhere"], "--token-file nowhere cannot be read"),
        (["RUN", "--megapixels", "0"], "--megapixels"),
    ],
)
def test_one_line_and_two(
    finished: Callable[..., Path], args: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["serve", *(str(finished("silc_c")) if word == "RUN" else word for word in args)]) == 2
    said = capsys.readouterr().err.strip()
    assert message in said
    assert "\n" not in said


def test_a_port_that_is_taken(finished: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert main(["serve", str(finished("silc_c")), "--port", port]) == 2
    assert f"127.0.0.1:{port} is taken; give another --port" in capsys.readouterr().err
