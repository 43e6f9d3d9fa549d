"""Export of a detector: a directory with the encoder inside, and formats that need no silc.

    config.yaml, checkpoints/      the head, as a run without its optimizer: `silc.load` opens the directory
    encoder/                       the model below, as `silc import` writes it
    onnx/detect.onnx               pixel_values [1, 3, S, S], text_embeds [Q, D] -> logits [1, N, Q], boxes [1, N, 4],
                                   and objectness [1, N] if it was learnt
    onnx/text.onnx                 input_ids [batch, T] -> text_embeds [batch, D] of unit length
    transformers/                  OwlViTForObjectDetection, or Owlv2ForObjectDetection, if the towers are CLIP's
    README.md                      model card

For several prompts of a name, take the mean of their text_embeds. Boxes are (centre x, centre y, width, height) as
fractions of the square. An image is put at its upper left, with the longer side S pixels; the rest is grey.
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
from silc.exports.formats import ONNX, TRANSFORMERS
from silc.exports.graphs import TEXT_NAMES, TextGraph, Traced, load_onnx, quietly, save_onnx
from silc.exports.verify import FLOAT, Check, compare
from silc.extras import needs
from silc.heads.detect import transformers
from silc.heads.detect.card import card
from silc.heads.detect.config import DetectConfig
from silc.heads.detect.predictor import DetectModel, detector_of
from silc.heads.detect.run import load
from silc.heads.exported import copied
from silc.heads.run import inside
from silc.training.directory import CONFIG

if TYPE_CHECKING:
    from silc.heads.detect.model import Detector

NAMES = ("a cat", "a traffic light", "grass", "a wooden table")
"""Names for which an export is compared with the model."""
OUTPUTS = ("logits", "boxes", "objectness")


def export(source: str, out: str, formats: Sequence[str], *, license: str, datasets: Sequence[str]) -> list[Check]:
    """Write a detector with its encoder, and the formats that are asked for: everything, or nothing on an error.

    Raises:
        BadInput: an unknown format, a library that is not installed, towers that no class of transformers can hold, or
            results that differ when the files are read back. Nothing is left behind.
    """
    if odd := sorted(set(formats) - {ONNX, TRANSFORMERS}):
        raise BadInput(f"a detector is exported as silc's own files, {ONNX} and {TRANSFORMERS}, not as {odd[0]}")
    run, place = Path(source), offered.check(source, out, formats)
    config, model = inside(run, configs.load(run / CONFIG, DetectConfig)), _loaded(run)
    size = model.preprocess.size
    with whole(place) as partial, torch.no_grad():
        below = copied(run, partial, config, license, datasets)
        ids = model.tokenizer(NAMES).to(model.device)
        queries, told = model.encode_text(ids), list[str]()
        pixels = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(0))
        wanted, again = model.find(pixels, queries), _loaded(partial).find(pixels, queries)
        read_back = zip(OUTPUTS, again, wanted, strict=False)
        checks = [compare("silc", what, theirs, ours, 0.0) for what, theirs, ours in read_back]
        if TRANSFORMERS in formats:
            told = transformers.write(partial / TRANSFORMERS, model.detector, below)
            below.tokenizer.save(partial / TRANSFORMERS, mask=True)
            checks += transformers.verify(partial / TRANSFORMERS, model.detector, pixels, NAMES, ids, queries)
        if ONNX in formats:
            _write_graphs(partial, model, pixels, queries, ids)
            checks += _compared(partial, model.detector, pixels, queries, ids)
        write_whole(partial / "README.md", card(run, config, model, license, datasets, checks, told))
    return checks


def _loaded(run: Path) -> DetectModel:
    return detector_of(load(run, device="cpu", name=run.name).best())


class _Graph(nn.Module):
    """Detections in pixels, for texts."""

    def __init__(self, detector: Detector) -> None:
        super().__init__()
        self.detector = detector

    def forward(self, pixel_values: Tensor, text_embeds: Tensor) -> tuple[Tensor, ...]:
        """Logits [1, N, Q], boxes [1, N, 4] and, if learnt, objectness [1, N] for pixels [1, 3, S, S], texts [Q, D]."""
        found = self.detector.look(pixel_values, text_embeds)
        return tuple(x for x in (found.logits, found.boxes, found.objectness) if x is not None)


def _write_graphs(out: Path, model: DetectModel, pixels: Tensor, queries: Tensor, ids: Tensor) -> None:
    for package in ("onnx", "onnxscript", "onnxruntime"):
        needs(ONNX, package, "export")
    (out / ONNX).mkdir()
    graph, text = _Graph(model.detector).eval(), TextGraph(model.detector.text).eval()
    given = {"pixel_values": pixels, "text_embeds": queries}
    names = OUTPUTS[: 2 + (model.detector.head.objectness_head is not None)]
    with quietly():
        save_onnx(Traced(graph, given, [{}, {0: Dim("names", min=1)}], names), str(out / ONNX / "detect.onnx"))
        save_onnx(
            Traced(text, {"input_ids": ids[:2]}, [{0: Dim("batch", min=1)}], TEXT_NAMES), str(out / ONNX / "text.onnx")
        )


def _compared(out: Path, detector: Detector, pixels: Tensor, queries: Tensor, ids: Tensor) -> list[Check]:
    """Compare the graphs with the model, for several numbers of names."""
    run, found = load_onnx(str(out / ONNX / "detect.onnx")), []
    for some in (queries, queries[:1]):
        wanted = _Graph(detector)(pixels, some)
        for what, theirs, ours in zip(OUTPUTS, run(pixels, some), wanted, strict=False):
            tolerance = 10 * FLOAT * max(1.0, float(ours.abs().max()))
            found.append(compare(ONNX, f"{what} of {len(some)} names", theirs, ours, tolerance))
    (own,) = load_onnx(str(out / ONNX / "text.onnx"))(ids)
    return [*found, compare(ONNX, f"text_embeds of {len(own)}", own, queries)]
