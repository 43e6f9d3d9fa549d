"""Towers as graphs that need no silc: ONNX, torch.export's, and the latter with int8 weights.

    image    pixel_values [batch, 3, patch*h, patch*w] -> image_embeds [batch, D], patch_embeds [batch, h, w, D]
    text     input_ids [batch, T] -> text_embeds [batch, D]

All embeddings are of unit length; patch_embeds are the model's first dense readout, in the space of the texts. T is the
model's own number of tokens; h and w are 2 or more. Positions are resampled in the graph, by the model's rule.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from silc.exports.formats import INT8, ONNX, TORCH
from silc.exports.verify import Check, Compare, Probe, compare, compare_directions, needs

if TYPE_CHECKING:
    from silc.models.image import ImageTower
    from silc.models.silc import Encoder
    from silc.models.text import TextTower

IMAGE_NAMES, TEXT_NAMES = ("image_embeds", "patch_embeds"), ("text_embeds",)
Run = Callable[[Tensor], tuple[Tensor, ...]]


class ImageGraph(nn.Module):
    """Pooled and dense features of unit length."""

    def __init__(self, visual: ImageTower, readout: str) -> None:
        super().__init__()
        self.visual, self.readout = visual, readout

    def forward(self, pixel_values: Tensor) -> tuple[Tensor, Tensor]:
        """[B, D] and [B, h, w, D] of normalised images [B, 3, H, W]."""
        pooled, dense = self.visual(pixel_values), self.visual.dense(pixel_values, self.readout)
        return F.normalize(pooled, dim=-1), F.normalize(dense, dim=-1)


class TextGraph(nn.Module):
    """Text features of unit length."""

    def __init__(self, text: TextTower) -> None:
        super().__init__()
        self.text = text

    def forward(self, input_ids: Tensor) -> tuple[Tensor]:
        """[B, D] of ids [B, T]."""
        return (F.normalize(self.text(input_ids), dim=-1),)


@dataclass(frozen=True)
class Traced:
    """A tower with an input to follow it by and the sizes that may change."""

    graph: nn.Module
    example: Tensor
    dynamic: Mapping[int, Any]
    input_name: str
    output_names: tuple[str, ...]


def traced(model: Encoder, probe: Probe) -> dict[str, Traced]:
    """Both towers. The example is of none of the model's own sizes, which would be taken for constants."""
    patch, side, batch = model.patch_size, model.preprocess.size // model.patch_size, Dim("batch", min=1)
    sizes = {0: batch, 2: patch * Dim("h", min=2), 3: patch * Dim("w", min=2)}
    images = probe.images(2, patch * (side + 1), patch * (side + 2))
    image = ImageGraph(model.visual, model.readouts[0]).eval()
    text = TextGraph(model.model.text).eval()
    return {
        "image": Traced(image, images, sizes, "pixel_values", IMAGE_NAMES),
        "text": Traced(text, probe.ids[:2], {0: batch}, "input_ids", TEXT_NAMES),
    }


def write_onnx(directory: Path, probe: Probe) -> None:
    """image.onnx and text.onnx, of the newest operators that torch writes.

    Raises:
        BadInput: the exporter is not installed.
    """
    for package in ("onnx", "onnxscript", "onnxruntime"):
        needs(ONNX, package, "export")
    for name, tower in traced(probe.model, probe).items():
        with _quietly():
            program = torch.onnx.export(
                _program(tower),
                dynamo=True,
                input_names=[tower.input_name],
                output_names=tower.output_names,
                verbose=False,
            )
            assert program is not None
            program.save(_file(directory, ONNX, name, ".onnx"))


def write_torch(directory: Path, probe: Probe) -> None:
    """image.pt2 and text.pt2."""
    for name, tower in traced(probe.model, probe).items():
        with _quietly():
            torch.export.save(_program(tower), _file(directory, TORCH, name, ".pt2"))


def write_int8(directory: Path, probe: Probe) -> None:
    """image.pt2 and text.pt2 whose linear layers keep 8 bits a weight and a scale a row.

    Raises:
        BadInput: torchao is not installed.
    """
    needs(INT8, "torchao", "quant")
    from torchao.quantization import Int8WeightOnlyConfig, quantize_
    from torchao.utils import unwrap_tensor_subclass

    for name, tower in traced(probe.model, probe).items():
        with _quietly():
            graph = copy.deepcopy(tower.graph)
            quantize_(graph, Int8WeightOnlyConfig())
            # Plain tensors and plain operators in the file: reading it needs no torchao.
            unwrap_tensor_subclass(graph)
            program = torch.export.export(graph, (tower.example,), dynamic_shapes=(dict(tower.dynamic),))
            torch.export.save(program, _file(directory, INT8, name, ".pt2"))


def verify_onnx(directory: Path, probe: Probe) -> list[Check]:
    """The files in onnxruntime against the towers, at several sizes.

    Raises:
        BadInput: they differ.
    """
    runtime = needs(ONNX, "onnxruntime", "export")

    def opened(name: str) -> Run:
        session = runtime.InferenceSession(_file(directory, ONNX, name, ".onnx"), providers=["CPUExecutionProvider"])
        (given,) = session.get_inputs()
        return lambda x: tuple(map(torch.from_numpy, session.run(None, {given.name: x.numpy()})))

    return _compared(ONNX, probe, opened, compare)


def verify_torch(directory: Path, probe: Probe, name: str = TORCH, by: Compare = compare) -> list[Check]:
    """The files of `write_torch` (or `write_int8`) against the towers, at several sizes.

    Raises:
        BadInput: they differ.
    """

    def opened(tower: str) -> Run:
        with _quietly():
            return torch.export.load(_file(directory, name, tower, ".pt2")).module()

    return _compared(name, probe, opened, by)


verify_int8 = partial(verify_torch, name=INT8, by=compare_directions)


@torch.no_grad()
def _compared(format_: str, probe: Probe, opened: Callable[[str], Run], by: Compare) -> list[Check]:
    model, patch, size = probe.model, probe.model.patch_size, probe.model.preprocess.size
    smaller = max(2, size // patch // 2) * patch
    run, found = opened("image"), []
    for images in (probe.images(1), probe.images(3, smaller, size + patch)):
        ours = model.encode_image(images), F.normalize(model.encode_dense(images, model.readouts[0]), dim=-1)
        for name, theirs, expected in zip(IMAGE_NAMES, run(images), ours, strict=True):
            found.append(by(format_, f"{name} of {' x '.join(map(str, images.shape))}", theirs, expected))
    (texts,) = opened("text")(probe.ids)
    return [*found, by(format_, f"text_embeds of {len(probe.ids)}", texts, probe.text)]


def _program(tower: Traced) -> ExportedProgram:
    return torch.export.export(tower.graph, (tower.example,), dynamic_shapes=(dict(tower.dynamic),))


def _file(directory: Path, format_: str, name: str, suffix: str) -> str:
    file = directory / format_ / f"{name}{suffix}"
    file.parent.mkdir(exist_ok=True)
    return str(file)


@contextmanager
def _quietly() -> Iterator[None]:
    """The exporters warn of their own insides."""
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        yield
