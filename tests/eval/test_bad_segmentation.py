"""What cannot be segmented is one clear line and exit code 2; other sets are scored all the same."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from silc.cli import main


@pytest.fixture
def told(finished: Callable[..., Path], root: Path, tmp_path: Path, capsys) -> Callable[..., tuple[int, list[str]]]:
    """Exit code and lines on stderr of `silc eval` on the small sets."""

    def run(*words: str, tasks: str = "*-zs-seg") -> tuple[int, list[str]]:
        usual = [
            "--weights",
            "student",
            "--num-pictures",
            "0",
            "--device",
            "cpu",
            "--out",
            str(tmp_path / "scores.json"),
        ]
        code = main(["eval", str(finished("clip")), "--root", str(root), "--tasks", tasks, *usual, *words])
        return code, [line for line in capsys.readouterr().err.splitlines() if line.strip()]

    return run


def test_a_decoder_that_the_model_cannot_have(told, tmp_path: Path) -> None:
    """Before anything is scored; a model without a ViT has a line of its own (test_invariants.py)."""
    code, lines = told("--decoder", "proxyclip,cosine")
    assert (code, len(lines)) == (2, 1)
    assert "decoder proxyclip needs a second encoder; give its name: --second MODEL (eval.second)" in lines[0]
    assert not (tmp_path / "scores.json").exists()


def test_a_label_outside_the_class_list(told, root: Path) -> None:
    file = root / "segmentation/stripes/labels/1.png"
    label = np.array(Image.open(file))
    label[3, 3] = 9
    Image.fromarray(label).save(file)
    code, lines = told()
    assert code == 2
    (line,) = (line for line in lines if "outside" in line)
    assert "stripes/1: label 9 is outside its 4 classes (0 to 3, 255 is ignored)" in line


def test_more_neighbours_than_patches(told) -> None:
    code, lines = told("--decoder", "lposs", "--neighbours", "100000")
    assert code == 2
    (line,) = (line for line in lines if "neighbours" in line)
    assert "stripes-zs-seg is not scored: eval.neighbours is 100000 and an image has " in line
    code, lines = told("--decoder", "cosine", "--neighbours", "4")
    assert (code, len(lines)) == (2, 1)
    assert "only decoder lposs reads eval.neighbours; leave it out" in lines[0]


def test_a_set_that_is_not_there(told, root: Path) -> None:
    code, lines = told(tasks="voc20-zs-seg,stripes-zs-seg")
    assert (code, len(lines)) == (2, 1)
    assert f"voc20-zs-seg: {root}/VOCdevkit/VOC2012/" in lines[0]
    assert "is missing" in lines[0]
    code, lines = told(tasks="shapes-fewshot,cifar10-zs")
    assert code == 2
    assert "cifar10-zs: " in lines[0]
