"""A trained head for others: the encoder inside, ONNX that computes the same, and a card."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

import silc
from silc.cli import main

NAMES = ["grass", "sky"]


@pytest.mark.slow
def test_it_is_whole_without_the_model_below(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("onnxruntime")
    out = tmp_path / "exported"
    assert main(["export", str(trained), str(out), "--license", "mit", "--datasets", "coco/stuff"]) == 0
    told = capsys.readouterr().out
    for what in ("logits of 4 classes", "logits of 2 classes", "logits of 8 classes", "text_embeds of 4"):
        assert what in told
    moved = tmp_path / "moved"
    out.rename(moved)
    image = Image.radial_gradient("L").resize((40, 50)).convert("RGB")
    ours, theirs = (silc.load(run, device="cpu").segment(image, NAMES) for run in (trained, moved))
    assert torch.equal(ours.scores, theirs.scores)
    text = (moved / "README.md").read_text()
    for said in ("license: mit", "- coco/stuff", "silc.load", "queries and values", "Open-vocabulary segmentation"):
        assert said in text
    config = (moved / "config.yaml").read_text()
    assert str(tmp_path) not in config
    assert str(trained.parent) not in config


@pytest.mark.slow
def test_an_export_is_exported_again(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its encoder lies inside, wherever one stands; what is read back has the tuned text tower."""
    pytest.importorskip("onnxruntime")
    first, second = tmp_path / "first", tmp_path / "second"
    for source, out in ((trained, first), (first, second)):
        assert main(["export", str(source), str(out)]) == 0
        assert capsys.readouterr().out.count("text_embeds") == 2  # silc's own files, and the graph
    image = Image.radial_gradient("L").resize((40, 50)).convert("RGB")
    ours, theirs = (silc.load(run, device="cpu").segment(image, NAMES) for run in (trained, second))
    assert torch.equal(ours.scores, theirs.scores)


def test_what_a_head_is_not_exported_as_is_told(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["export", str(trained), str(tmp_path / "out")]
    for given, said in (
        (["--formats", "open_clip"], "exported as silc's own files and as onnx, not as open_clip"),
        (["--weights", "student"], "exported as it was trained; leave out weights, tokenizer and decoder"),
    ):
        assert main([*asked, *given]) == 2
        told = capsys.readouterr().err.strip()
        assert said in told
        assert "\n" not in told
    assert not (tmp_path / "out").exists()
