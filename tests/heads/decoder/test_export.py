"""A decoder in other libraries' hands."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

import silc
from silc.cli import main
from tests.heads.decoder.conftest import SMALL
from tests.heads.decoder.test_run import learnt_from

pytest.importorskip("onnxruntime")


@pytest.mark.slow
def test_graphs_write_what_the_model_writes(
    finished: Callable[..., Path], root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = SMALL | {
        "data.train": learnt_from(root),
        "length": 12,
        "whiten": True,
    }  # a long prompt leaves less than what is compared
    run = silc.train("decoder", out=tmp_path / "run", init=str(finished("silc_c")), **own)
    out = tmp_path / "exported"
    assert main(["export", str(run), str(out), "--formats", "onnx"]) == 0
    assert "image_keys" in capsys.readouterr().out
    assert {"image.onnx", "step.onnx"} <= {file.name for file in (out / "onnx").iterdir()}
    assert "decoder of 1 blocks" in (out / "README.md").read_text()
    image = Image.new("RGB", (20, 20), "red")
    assert silc.load(out, device="cpu").caption(image) == silc.load(run, device="cpu").caption(image)
    assert main(["export", str(run), str(tmp_path / "other"), "--formats", "transformers"]) == 2
    assert "a decoder is exported as silc's own files and onnx" in capsys.readouterr().err
