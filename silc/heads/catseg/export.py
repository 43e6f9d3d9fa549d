"""Export of a CAT-Seg head: a directory with the encoder inside, and ONNX graphs that need no silc.

    config.yaml, checkpoints/      the head, as a run without its optimizer: `silc.load` opens the directory
    encoder/                       the model below, as `silc import` writes it
    onnx/catseg.onnx               pixel_values [1, 3, S, S], text_embeds [C, P, D] -> logits [1, C, 4 h, 4 w]
    onnx/text.onnx                 input_ids [batch, T] -> text_embeds [batch, D], of the tuned text tower
    README.md                      model card

The text features of both graphs have unit length. S is the head's own size. C is from 2 to `aggregator.classes`. For
more classes, silc keeps for each image those with the highest cosines; a caller of the graph has to do this itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.export import Dim

from silc import config as configs
from silc.durable import whole, write_whole
from silc.errors import BadInput
from silc.exports import formats as offered
from silc.exports.formats import ONNX
from silc.exports.graphs import TEXT_NAMES, TextGraph, Traced, load_onnx, quietly, save_onnx
from silc.exports.verify import FLOAT, Check, compare
from silc.extras import needs
from silc.heads.catseg.card import card
from silc.heads.catseg.config import CatSegConfig
from silc.heads.catseg.predictor import CatSegModel, prompt_ids
from silc.heads.catseg.run import load
from silc.heads.exported import copied
from silc.heads.run import inside
from silc.training.directory import CONFIG

if TYPE_CHECKING:
    from silc.heads.catseg.model import CatSeg

NAMES = ("a cat", "the sky", "grass", "a wooden table")
"""Class names for which an export is compared with the model."""


def export(source: str, out: str, formats: Sequence[str], *, license: str, datasets: Sequence[str]) -> list[Check]:
    """Write a trained head with its encoder, and ONNX if `formats` has it: everything, or nothing on an error.

    Raises:
        BadInput: an unknown format, a library that is not installed, or other results when the files are read back.
            Nothing is left behind.
    """
    if odd := sorted(set(formats) - {ONNX}):
        raise BadInput(
            f"a CAT-Seg head is exported as silc's own files and as onnx, not as {odd[0]}; give --formats onnx"
        )
    run, place = Path(source), offered.check(source, out, formats)
    model = load(run, device="cpu", name=run.name).models[CatSegConfig.kind]
    assert isinstance(model, CatSegModel)
    with whole(place) as partial:
        config = inside(run, configs.load(run / CONFIG, CatSegConfig))
        copied(run, partial, config, license, datasets, kept=["classes"])
        ids = prompt_ids(model, NAMES, model.templates)
        texts = model.embedded(ids)
        pixels = torch.randn(1, 3, model.crop, model.crop, generator=torch.Generator().manual_seed(0))
        logits = model.maps(pixels, texts)
        again = load(partial, device="cpu", name=run.name).models[CatSegConfig.kind]
        assert isinstance(again, CatSegModel)
        read_back = (("text_embeds", again.embedded(ids), texts), ("logits", again.maps(pixels, texts), logits))
        checks = [compare("silc", *one, 0.0) for one in read_back]
        if ONNX in formats:
            _write_graphs(partial, model, texts)
            checks += _compared(partial, model, pixels, texts)
        write_whole(partial / "README.md", card(run, config, model, license, datasets, checks))
    return checks


class _Graph(nn.Module):
    """Logits of pixels and texts."""

    def __init__(self, catseg: CatSeg) -> None:
        super().__init__()
        self.catseg = catseg

    def forward(self, pixel_values: Tensor, text_embeds: Tensor) -> tuple[Tensor]:
        """Logits [1, C, 4 h, 4 w] of pixels [1, 3, S, S] and texts [C, P, D]."""
        return (self.catseg.logits(pixel_values, text_embeds),)


def _write_graphs(out: Path, model: CatSegModel, texts: Tensor) -> None:
    for package in ("onnx", "onnxscript", "onnxruntime"):
        needs(ONNX, package, "export")
    (out / ONNX).mkdir()
    side, most = model.catseg.size, model.catseg.head.transformer.num_classes
    classes = {0: Dim("classes", min=2, max=most)}
    example = torch.zeros(1, 3, side, side), texts
    ids = model.tokenizer([*NAMES])
    with quietly():
        program = torch.export.export(_Graph(model.catseg).eval(), example, dynamic_shapes=({}, classes))
        given, made = ["pixel_values", "text_embeds"], ["logits"]
        written = torch.onnx.export(program, dynamo=True, input_names=given, output_names=made, verbose=False)
        assert written is not None
        written.save(str(out / ONNX / "catseg.onnx"))
        graph = TextGraph(model.catseg.text).eval()
        save_onnx(
            Traced(graph, {"input_ids": ids[:2]}, [{0: Dim("batch", min=1)}], TEXT_NAMES), str(out / ONNX / "text.onnx")
        )


def _compared(out: Path, model: CatSegModel, pixels: Tensor, texts: Tensor) -> list[Check]:
    """Compare the graphs with the model, for several numbers of classes."""
    runtime = needs(ONNX, "onnxruntime", "export")
    session = runtime.InferenceSession(str(out / ONNX / "catseg.onnx"), providers=["CPUExecutionProvider"])
    side, found = model.catseg.size, []
    pixels = torch.nn.functional.interpolate(pixels, (side, side))
    for some in (texts, texts[:2], texts.repeat(2, 1, 1)):
        (theirs,) = session.run(None, {"pixel_values": pixels.numpy(), "text_embeds": some.numpy()})
        ours = model.maps(pixels, some)
        tolerance = FLOAT * max(1.0, float(ours.abs().max())) * 10
        found.append(compare(ONNX, f"logits of {len(some)} classes", torch.from_numpy(theirs), ours, tolerance))
    ids = prompt_ids(model, NAMES, model.templates)
    (own,) = load_onnx(str(out / ONNX / "text.onnx"))(ids.flatten(0, 1))
    return [*found, compare(ONNX, f"text_embeds of {len(own)}", own.unflatten(0, ids.shape[:2]), texts)]
