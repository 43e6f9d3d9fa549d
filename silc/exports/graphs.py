"""Towers as graphs that need no silc: ONNX, torch.export's, and the latter with int8 weights.

    image    pixel_values [batch, 3, patch*h, patch*w] -> image_embeds [batch, D], patch_embeds [batch, h, w, D]
    text     input_ids [batch, T] -> text_embeds [batch, D]
    segment  pixel_values, text_embeds [classes, D] -> class_maps [batch, classes, h, w]

All embeddings are of unit length; patch_embeds are the model's first dense readout, in the space of the texts. T is the
model's own number of tokens; h and w are 2 or more. Positions are resampled in the graph, by the model's rule.
`segment` is a decoder without training, if one is asked for: each image is one window, and the maps have a value for
each patch.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from silc.eval.config import EvalConfig
from silc.eval.decoders import predictor_of
from silc.eval.joint import Scga
from silc.exports.formats import INT8, MAPPED, ONNX, TORCH
from silc.exports.verify import MAPS, Check, Compare, Probe, compare, compare_directions
from silc.extras import needs

if TYPE_CHECKING:
    from silc.interop.pretrained import Pretrained
    from silc.models.image import ImageTower
    from silc.models.silc import Encoder
    from silc.models.text import TextTower

IMAGE_NAMES, TEXT_NAMES, MAP_NAMES = ("image_embeds", "patch_embeds"), ("text_embeds",), ("class_maps",)
Run = Callable[..., tuple[Tensor, ...]]
"""A function from inputs to outputs, both in the graph's order."""


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


class SegmentGraph(nn.Module):
    """Class maps by a decoder of `eval/decoders.py`."""

    def __init__(self, model: Encoder, decoder: str) -> None:
        super().__init__()
        self.visual = model.visual  # assigned, so that its weights belong to the graph
        self.predictor = predictor_of(model, EvalConfig(decoder=decoder))

    def forward(self, pixel_values: Tensor, text_embeds: Tensor) -> tuple[Tensor]:
        """[B, N, h, w] of normalised images [B, 3, H, W] and unit-length text features [N, D]."""
        maps = self.predictor.maps(pixel_values, text_embeds)
        return (self.predictor.of_whole(maps, text_embeds) if isinstance(self.predictor, Scga) else maps,)


@dataclass(frozen=True)
class Traced:
    """A graph with example inputs for tracing, and the sizes that may change."""

    graph: nn.Module
    examples: Mapping[str, Tensor]
    """Example inputs, by their name in the graph."""
    dynamic: Sequence[Mapping[int, Any]]
    output_names: tuple[str, ...]


def traced(model: Encoder, probe: Probe, *, maps: bool) -> dict[str, Traced]:
    """Both towers, and with `maps` also the decoder that the probe names.

    The examples have none of the model's own sizes, because tracing would take these for constants.
    """
    patch, side, batch = model.patch_size, model.preprocess.size // model.patch_size, Dim("batch", min=1)
    sizes = {0: batch, 2: patch * Dim("h", min=2), 3: patch * Dim("w", min=2)}
    images = {"pixel_values": probe.images(2, patch * (side + 1), patch * (side + 2))}
    image = ImageGraph(model.visual, model.readouts[0]).eval()
    text = TextGraph(model.model.text).eval()
    found = {
        "image": Traced(image, images, [sizes], IMAGE_NAMES),
        "text": Traced(text, {"input_ids": probe.ids[:2]}, [{0: batch}], TEXT_NAMES),
    }
    if maps and probe.decoder:
        segment, classes = SegmentGraph(model, probe.decoder).eval(), {0: Dim("classes", min=1)}
        given = {**images, "text_embeds": probe.text[:3]}
        found["segment"] = Traced(segment, given, [sizes, classes], MAP_NAMES)
    return found


@dataclass(frozen=True)
class Graphs:
    """A format with one file for each graph: image, text, and segment if a decoder is asked for."""

    NAME: str
    suffix: str
    packages: tuple[str, ...]
    """Packages that must be installed."""
    extra: str
    """The extra of pyproject.toml that installs them."""
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
        for name, one in traced(probe.model, probe, maps=self.NAME in MAPPED).items():
            with quietly():
                self.save(one, self._file(directory, name))

    @torch.no_grad()
    def verify(self, directory: Path, probe: Probe) -> list[Check]:
        """Compare the files with the model, at several sizes.

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
        found.append(self.compare(self.NAME, f"text_embeds of {len(probe.ids)}", texts, probe.text))
        return [*found, *(self._verify_maps(directory, probe) if probe.decoder and self.NAME in MAPPED else ())]

    def _verify_maps(self, directory: Path, probe: Probe) -> Iterator[Check]:
        """Compare the decoder's graph with the decoder, image by image: none may depend on its neighbours."""
        patch, size, expected = probe.model.patch_size, probe.model.preprocess.size, probe.segmented
        with quietly():
            segment = self.load(self._file(directory, "segment"))
        for num, images in ((1, probe.images(1)), (len(probe.text), probe.images(2, size + patch, size))):
            (maps,) = segment(images, probe.text[:num])
            ours = torch.cat([expected(image[None], probe.text[:num]) for image in images])
            what = f"class_maps of {' x '.join(map(str, images.shape))}"
            yield compare(self.NAME, what, maps, ours, MAPS)

    def notes(self, model: Pretrained) -> list[str]:
        """What this format does not carry: nothing."""
        return []

    def _file(self, directory: Path, name: str) -> str:
        return str(directory / self.NAME / f"{name}{self.suffix}")


def _program(one: Traced, graph: nn.Module | None = None) -> ExportedProgram:
    sizes = tuple(map(dict, one.dynamic))
    return torch.export.export(graph or one.graph, tuple(one.examples.values()), dynamic_shapes=sizes)


def as_onnx(one: Traced) -> torch.onnx.ONNXProgram:
    """The ONNX program, with the newest operators that torch writes."""
    names, given = one.output_names, list(one.examples)
    program = torch.onnx.export(_program(one), dynamo=True, input_names=given, output_names=names, verbose=False)
    assert program is not None
    return program


def save_onnx(one: Traced, file: str) -> None:
    """Save one file, and a second one with the weights if they are large."""
    as_onnx(one).save(file)


def load_onnx(file: str) -> Run:
    """A graph, ready to run on tensors."""
    runtime = needs(ONNX, "onnxruntime", "export")
    session = runtime.InferenceSession(file, providers=["CPUExecutionProvider"])
    names = [given.name for given in session.get_inputs()]

    def run(*given: Tensor) -> tuple[Tensor, ...]:
        arrays = {name: x.numpy() for name, x in zip(names, given, strict=True)}
        return tuple(map(torch.from_numpy, session.run(None, arrays)))

    return run


def _save_torch(one: Traced, file: str) -> None:
    torch.export.save(_program(one), file)


def _load_torch(file: str) -> Run:
    return torch.export.load(file).module()


def _save_int8(one: Traced, file: str) -> None:
    """Linear layers keep 8 bits a weight and a scale a row."""
    from torchao.quantization import Int8WeightOnlyConfig, quantize_
    from torchao.utils import unwrap_tensor_subclass

    graph = copy.deepcopy(one.graph)
    quantize_(graph, Int8WeightOnlyConfig())
    # Plain tensors and plain operators in the file: reading it needs no torchao.
    unwrap_tensor_subclass(graph)
    torch.export.save(_program(one, graph), file)


KINDS = (
    Graphs(ONNX, ".onnx", ("onnx", "onnxscript", "onnxruntime"), "export", save_onnx, load_onnx),
    Graphs(TORCH, ".pt2", (), "", _save_torch, _load_torch),
    Graphs(INT8, ".pt2", ("torchao",), "quant", _save_int8, _load_torch, compare_directions),
)


@contextmanager
def quietly() -> Iterator[None]:
    """Silence the exporters' warnings about their own internals."""
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        yield
