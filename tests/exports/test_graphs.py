"""Graphs of the towers: any batch and size, without silc, torch's own and ONNX."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
import torch.nn.functional as F

import silc
from silc.errors import BadInput
from silc.eval.config import EvalConfig
from silc.eval.decoders import predictor_of
from silc.eval.joint import JointPredictor
from silc.eval.score_map import Box, Window
from silc.exports import formats, graphs
from silc.exports.verify import Probe
from silc.interop import sources
from silc.predict import Model

from .conftest import CLIP_IMAGE, CLIP_TEXT, IMAGE, TEXT

pytestmark = pytest.mark.slow  # tracing and reading back

Saved = Callable[..., Path]
SIZES = [(1, 32, 32), (3, 16, 40), (2, 48, 24)]


def expected(model: Model, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return model.encode_image(images), F.normalize(model.encode_dense(images, model.readouts[0]), dim=-1)


@pytest.mark.parametrize("pool", ["map", "cls"])
def test_torch_export(pool: str, saved: Saved, tmp_path: Path) -> None:
    """Another process opens the files with torch alone; positions are resampled in the graph by the model's rule."""
    image = replace(IMAGE, position_resample="bilinear_corners")
    source = saved(image, TEXT) if pool == "map" else saved(CLIP_IMAGE, CLIP_TEXT, embed_dim=24)
    silc.export(source, tmp_path / "out", ["torch_export"])
    model = silc.load(source, device="cpu")
    ids = model.tokenizer(["a cat", "two dogs"])
    given = {f"images{i}": torch.randn(b, 3, h, w).numpy() for i, (b, h, w) in enumerate(SIZES)}
    np.savez(tmp_path / "given.npz", ids=ids.numpy(), **given)
    code = (
        "import sys, numpy as np, torch\n"
        "given = np.load('given.npz')\n"
        "opened = {n: torch.export.load(f'out/torch_export/{n}.pt2').module() for n in ('image', 'text')}\n"
        "out = {'text': opened['text'](torch.from_numpy(given['ids']))[0].detach().numpy()}\n"
        "for name in given.files:\n"
        "    if name != 'ids':\n"
        "        pooled, dense = opened['image'](torch.from_numpy(given[name]))\n"
        "        out |= {name: pooled.detach().numpy(), name + 'd': dense.detach().numpy()}\n"
        "np.savez('out.npz', **out)\n"
        "assert 'silc' not in sys.modules and 'timm' not in sys.modules\n"
    )
    env = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    out = np.load(tmp_path / "out.npz")
    torch.testing.assert_close(torch.from_numpy(out["text"]), model.encode_text(ids), rtol=1e-5, atol=1e-6)
    for name, values in given.items():
        for key, ours in zip((name, f"{name}d"), expected(model, torch.from_numpy(values)), strict=True):
            torch.testing.assert_close(torch.from_numpy(out[key]), ours, rtol=1e-5, atol=1e-6)


def test_onnx(saved: Saved, tmp_path: Path) -> None:
    """Pitfall: no release of optimum-onnx goes with transformers 5, so the export is our own."""
    source = saved(CLIP_IMAGE, CLIP_TEXT, embed_dim=24)
    silc.export(source, tmp_path / "out", ["onnx"])
    model = silc.load(source, device="cpu")
    image, text = (onnxruntime.InferenceSession(tmp_path / "out/onnx" / f"{n}.onnx") for n in ("image", "text"))
    assert [given.name for given in image.get_inputs()] == ["pixel_values"]
    assert [given.name for given in image.get_outputs()] == ["image_embeds", "patch_embeds"]
    for batch, height, width in SIZES:
        images = torch.randn(batch, 3, height, width)
        for theirs, ours in zip(
            image.run(None, {"pixel_values": images.numpy()}), expected(model, images), strict=True
        ):
            torch.testing.assert_close(torch.from_numpy(theirs), ours, rtol=1e-5, atol=1e-5)
    for texts in (["a cat"], ["a cat", "two dogs", "the red car"]):
        ids = model.tokenizer(texts)
        (theirs,) = text.run(None, {"input_ids": ids.numpy()})
        torch.testing.assert_close(torch.from_numpy(theirs), model.encode_text(ids), rtol=1e-5, atol=1e-5)


def one_window(model: Model, decoder: str, image: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
    """Class maps [1, N, h, w] by the windows and the stitching of evaluation, with one window as large as the image."""
    predictor = predictor_of(model, EvalConfig(decoder=decoder))
    high, wide = image.shape[-2:]
    (maps,) = predictor.maps(image[None], classes)
    if isinstance(predictor, JointPredictor):
        (found,) = predictor.joined([Window(Box(0, 0, high, wide), maps, high, wide)], classes)
        return found.patches[None]
    return maps[None]


@torch.no_grad()
@pytest.mark.parametrize("decoder", formats.DECODERS)
def test_class_maps_of_every_decoder_by_onnxruntime(decoder: str, saved: Saved, tmp_path: Path) -> None:
    """Any number of images and classes, and any size; an image of a batch is scored as it is alone."""
    source = saved(CLIP_IMAGE, CLIP_TEXT, embed_dim=24)
    probe = Probe(sources.read(str(source)), decoder)
    graphs.save_onnx(graphs.traced(probe.model, probe, maps=True)["segment"], str(tmp_path / "segment.onnx"))
    session = onnxruntime.InferenceSession(tmp_path / "segment.onnx")
    assert [given.name for given in session.get_inputs()] == ["pixel_values", "text_embeds"]
    assert [given.name for given in session.get_outputs()] == ["class_maps"]
    model = silc.load(source, device="cpu")
    for num, (batch, height, width) in zip((1, 4, 30), SIZES, strict=True):
        images, classes = torch.randn(batch, 3, height, width), F.normalize(torch.randn(num, 24), dim=-1)
        (maps,) = session.run(None, {"pixel_values": images.numpy(), "text_embeds": classes.numpy()})
        assert maps.shape == (batch, num, height // 8, width // 8)
        expected = torch.cat([one_window(model, decoder, image, classes) for image in images])
        torch.testing.assert_close(torch.from_numpy(maps), expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("pool", ["map", "cls"])
def test_an_export_with_class_maps(pool: str, saved: Saved, tmp_path: Path) -> None:
    source = saved() if pool == "map" else saved(CLIP_IMAGE, CLIP_TEXT, embed_dim=24)
    checks = silc.export(source, tmp_path / "out", ["onnx", "torch_export"], decoder="radseg")
    assert [check.format for check in checks if check.what.startswith("class_maps")] == 2 * ["onnx"] + 2 * [
        "torch_export"
    ]
    assert (
        "segment makes class_maps from pixel_values and text_embeds, by decoder radseg"
        in (tmp_path / "out/README.md").read_text()
    )
    model = silc.load(source, device="cpu")
    classes = model.encode_text(["a cat", "two dogs", "the red car"])
    images = torch.randn(2, 3, 40, 64)
    opened = torch.export.load(tmp_path / "out/torch_export/segment.pt2").module()
    (maps,) = opened(images, classes)
    by_onnx = onnxruntime.InferenceSession(tmp_path / "out/onnx/segment.onnx")
    (other,) = by_onnx.run(None, {"pixel_values": images.numpy(), "text_embeds": classes.numpy()})
    torch.testing.assert_close(torch.from_numpy(other), maps.detach(), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(maps.sum(1), torch.ones(2, 5, 8), rtol=1e-4, atol=1e-4)  # probabilities


def test_int8(saved: Saved, tmp_path: Path) -> None:
    """Eight bits a weight in the file, plain operators that need no torchao, and directions kept."""
    source = saved()
    silc.export(source, tmp_path / "out", ["int8"])
    program = torch.export.load(tmp_path / "out/int8/image.pt2")
    dtypes = {name: value.dtype for name, value in program.state_dict.items() if value.ndim == 2}
    assert torch.int8 in dtypes.values()
    called = {str(node.target).split(".")[0] for node in program.graph.nodes if node.op == "call_function"}
    assert "torchao" not in called
    model = silc.load(source, device="cpu")
    images = torch.randn(2, 3, 24, 40)
    for theirs, ours in zip(program.module()(images), expected(model, images), strict=True):
        cosine = F.cosine_similarity(theirs, ours, dim=-1)
        assert 0.999 < cosine.min() <= cosine.max() < 1 - 1e-7


@pytest.mark.parametrize(("format_", "package"), [("onnx", "onnxscript"), ("int8", "torchao")])
def test_what_is_not_installed_is_named(
    format_: str, package: str, saved: Saved, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("onnx", "onnxruntime"):
        monkeypatch.setitem(sys.modules, name, torch)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(BadInput, match=rf"{format_} needs {package}.*pip install -e '\.\["):
        silc.export(saved(), tmp_path / "out", [format_])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model"]


def test_other_numbers_are_refused(saved: Saved, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A graph of another readout has the shapes and not the numbers."""
    honest = graphs.ImageGraph.forward

    def rotated(self: graphs.ImageGraph, pixel_values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        pooled, dense = honest(self, pixel_values)
        return pooled, dense.roll(1, dims=1)

    monkeypatch.setattr(graphs.ImageGraph, "forward", rotated)
    with pytest.raises(BadInput, match="torch_export: patch_embeds of 1 x 3 x 32 x 32 read back differ"):
        silc.export(saved(), tmp_path / "out", ["torch_export"])
    assert not (tmp_path / "out").exists()
