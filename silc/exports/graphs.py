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
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from silc.exports.formats import INT8, ONNX, TORCH
from silc.exports.verify import Check, Compare, Probe, compare, compare_directions
from silc.extras import needs

if TYPE_CHECKING:
    from silc.interop.pretrained import Pretrained
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


@dataclass(frozen=True)
class Graphs:
    """A kind of file for each of the towers: image and text."""

    NAME: str
    suffix: str
    packages: tuple[str, ...]
    """What has to be installed."""
    extra: str
    """Of pyproject.toml, which brings these."""
    save: Callable[[Traced, str], None]
    load: Callable[[str], Run]
    compare: Compare = compare

    def write(self, directory: Path, probe: Probe) -> None:
        """Add the files to a directory.

        Raises:
            BadInput: a package is not installed.
        """
        for package in self.packages:
            needs(self.NAME, package, self.extra)
        (directory / self.NAME).mkdir(exist_ok=True)
        for name, tower in traced(probe.model, probe).items():
            with quietly():
                self.save(tower, self._file(directory, name))

    @torch.no_grad()
    def verify(self, directory: Path, probe: Probe) -> list[Check]:
        """The files against the towers, at several sizes.

        Raises:
            BadInput: they differ.
        """
        model, patch, size = probe.model, probe.model.patch_size, probe.model.preprocess.size
        smaller = max(2, size // patch // 2) * patch
        with quietly():
            image, text = (self.load(self._file(directory, name)) for name in ("image", "text"))
        found = []
        for images in (probe.images(1), probe.images(3, smaller, size + patch)):
            ours = model.encode_image(images), F.normalize(model.encode_dense(images, model.readouts[0]), dim=-1)
            for name, theirs, expected in zip(IMAGE_NAMES, image(images), ours, strict=True):
                what = f"{name} of {' x '.join(map(str, images.shape))}"
                found.append(self.compare(self.NAME, what, theirs, expected))
        (texts,) = text(probe.ids)
        return [*found, self.compare(self.NAME, f"text_embeds of {len(probe.ids)}", texts, probe.text)]

    def notes(self, model: Pretrained) -> list[str]:
        """What this format does not carry: nothing to tell."""
        return []

    def _file(self, directory: Path, name: str) -> str:
        return str(directory / self.NAME / f"{name}{self.suffix}")


def _program(tower: Traced, graph: nn.Module | None = None) -> ExportedProgram:
    return torch.export.export(graph or tower.graph, (tower.example,), dynamic_shapes=(dict(tower.dynamic),))


def save_onnx(tower: Traced, file: str) -> None:
    """Of the newest operators that torch writes."""
    names, given = tower.output_names, [tower.input_name]
    program = torch.onnx.export(_program(tower), dynamo=True, input_names=given, output_names=names, verbose=False)
    assert program is not None
    program.save(file)


def load_onnx(file: str) -> Run:
    """A graph of one input, ready to run on tensors."""
    runtime = needs(ONNX, "onnxruntime", "export")
    session = runtime.InferenceSession(file, providers=["CPUExecutionProvider"])
    (given,) = session.get_inputs()
    return lambda x: tuple(map(torch.from_numpy, session.run(None, {given.name: x.numpy()})))


def _save_torch(tower: Traced, file: str) -> None:
    torch.export.save(_program(tower), file)


def _load_torch(file: str) -> Run:
    return torch.export.load(file).module()


def _save_int8(tower: Traced, file: str) -> None:
    """Linear layers keep 8 bits a weight and a scale a row."""
    from torchao.quantization import Int8WeightOnlyConfig, quantize_
    from torchao.utils import unwrap_tensor_subclass

    graph = copy.deepcopy(tower.graph)
    quantize_(graph, Int8WeightOnlyConfig())
    # Plain tensors and plain operators in the file: reading it needs no torchao.
    unwrap_tensor_subclass(graph)
    torch.export.save(_program(tower, graph), file)


KINDS = (
    Graphs(ONNX, ".onnx", ("onnx", "onnxscript", "onnxruntime"), "export", save_onnx, load_onnx),
    Graphs(TORCH, ".pt2", (), "", _save_torch, _load_torch),
    Graphs(INT8, ".pt2", ("torchao",), "quant", _save_int8, _load_torch, compare_directions),
)


@contextmanager
def quietly() -> Iterator[None]:
    """The exporters warn of their own insides."""
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        yield
