"""`silc data generate` writes sets that the evaluation finds."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from silc import cli


def test_the_sets_are_found_and_nothing_is_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "world"
    small = ["--num", "3", "--num-train", "4", "--num-retrieval", "5", "--objects.size", "24"]
    assert cli.main(["data", "generate", str(out), *small]) == 0
    capsys.readouterr()
    with Image.open(out / "overview.png") as picture:
        assert picture.width > 3 * 2 * 3 * 24
    assert cli.main(["eval", "--list", "--root", str(out)]) == 0
    names = set(capsys.readouterr().out.split())
    segmented = {
        f"{name}-zs-seg" for name in ("objects", *(f"objects_{k}" for k in ("bodies", "whole", "grounds", "unseen")))
    }
    assert names >= {"objects-retrieval", "objects-zs", "objects_unseen-zs", *segmented}
    assert cli.main(["data", "generate", str(out)]) == 2
    assert "is not empty" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--num-retrieval", "657"], "for at most 656"),
        (["--objects.at-home", "1"], "for at most 36"),
        (["--objects.num", "5"], "objects.num"),
    ],
)
def test_what_cannot_be_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: list[str], said: str
) -> None:
    assert cli.main(["data", "generate", str(tmp_path / "world"), "--num", "1", "--num-train", "1", *flags]) == 2
    assert said in capsys.readouterr().err


def test_an_unknown_part_is_named_with_its_neighbour(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["data", "chek"]) == 2
    assert "did you mean 'check'" in capsys.readouterr().err
