"""Export of a decoder: a directory with the encoder inside, and two ONNX graphs that need no silc.

    config.yaml, checkpoints/, tokenizer/   the decoder, as a run without its optimizer: `silc.load` opens the directory
    encoder/                                the model below, as `silc import` writes it
    onnx/image.onnx    pixel_values [B, 3, S, S] -> image_keys, image_values [depth, B, H, T, W/H]
    onnx/step.onnx     input_ids [B, n], places [B, n], keys, values [depth, B, H, L, W/H], image_keys, image_values
                       -> logits [B, n, V], keys, values with the new tokens
    README.md                                model card

Begin a text with keys and values of zeros. Give the whole prompt in one step, then each next token at the next place.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
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
from silc.exports.graphs import Traced, load_onnx, quietly, save_onnx
from silc.exports.verify import FLOAT, Check, compare
from silc.extras import needs
from silc.heads.decoder.card import card
from silc.heads.decoder.config import DecoderConfig
from silc.heads.decoder.generate import Writing, write
from silc.heads.decoder.model import Cache, Seen, TextDecoder
from silc.heads.decoder.predictor import writing_model
from silc.heads.decoder.run import load
from silc.heads.exported import copied
from silc.rundir import TOKENIZER
from silc.training.directory import CONFIG

if TYPE_CHECKING:
    from silc.heads.decoder.learner import Teller
    from silc.heads.decoder.predictor import TextModel

MOST = 8
"""Tokens that are generated to compare the graphs with the model."""
IMAGE_OUTPUTS, STEP_OUTPUTS = ("image_keys", "image_values"), ("logits", "new_keys", "new_values")


def export(source: str, out: str, formats: Sequence[str], *, license: str, datasets: Sequence[str]) -> list[Check]:
    """Write a decoder with its encoder, and the graphs if `formats` has onnx: everything, or nothing on an error.

    Raises:
        BadInput: an unknown format, a library that is not installed, or other results when the files are read back.
            Nothing is left behind.
    """
    if odd := sorted(set(formats) - {ONNX}):
        raise BadInput(f"a decoder is exported as silc's own files and {ONNX}, not as {odd[0]}")
    run, place = Path(source), offered.check(source, out, formats)
    config, model = configs.load(run / CONFIG, DecoderConfig), _loaded(run)
    size = model.preprocess.size
    with whole(place) as partial, torch.no_grad():
        copied(run, partial, config, license, datasets, kept=("prefixes",))
        shutil.copytree(run / TOKENIZER, partial / TOKENIZER)
        pixels = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))
        prompts = [model.text.prompt(prefix, "what is this?" * row) for row, prefix in enumerate(model.prefixes[:2])]
        prompts = [*prompts, *prompts][:2]
        checks = [
            compare("silc", "logits", _logits(_loaded(partial), pixels, prompts), _logits(model, pixels, prompts), 0.0)
        ]
        if ONNX in formats:
            _write_graphs(partial, model.teller, pixels)
            checks += _compared(partial, model, pixels, prompts)
        write_whole(partial / "README.md", card(run, config, model, license, datasets, checks))
    return checks


def _loaded(run: Path) -> TextModel:
    return writing_model(load(run, device="cpu", name=run.name).best())


def _logits(model: TextModel, pixels: Tensor, prompts: Sequence[Sequence[int]]) -> Tensor:
    shortest = min(map(len, prompts))
    ids = torch.tensor([list(prompt)[:shortest] for prompt in prompts])
    logits: Tensor = model.teller.decoder(ids, model.teller.look(pixels))
    return logits


class _Image(nn.Module):
    """Keys and values of images for the cross-attention of all blocks."""

    def __init__(self, teller: Teller) -> None:
        super().__init__()
        self.teller = teller

    def forward(self, pixel_values: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values [depth, B, H, T, W/H] of normalised images [B, 3, S, S]."""
        return _stacked(self.teller.decoder.seen(self.teller.look(pixel_values)))


class _Step(nn.Module):
    """One decoding step: reads the next tokens of texts."""

    def __init__(self, decoder: TextDecoder) -> None:
        super().__init__()
        self.decoder = decoder

    def forward(
        self, input_ids: Tensor, places: Tensor, keys: Tensor, values: Tensor, image_keys: Tensor, image_values: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Logits [B, n, V], and the keys and values updated with these tokens."""
        cache = Cache(_apart(keys, values), _apart(image_keys, image_values))
        logits, after = self.decoder.read(input_ids, places, cache)
        return logits, *_stacked(after.read)


def _stacked(parts: Sequence[Seen]) -> tuple[Tensor, Tensor]:
    return torch.stack([one.keys for one in parts]), torch.stack([one.values for one in parts])


def _apart(keys: Tensor, values: Tensor) -> list[Seen]:
    return [Seen(keys[block], values[block]) for block in range(len(keys))]


def _nothing_read(decoder: TextDecoder, texts: int) -> Tensor:
    shape = decoder.shape
    return torch.zeros(shape.depth, texts, shape.heads, shape.length, shape.width // shape.heads)


def _write_graphs(out: Path, teller: Teller, pixels: Tensor) -> None:
    for package in ("onnx", "onnxscript", "onnxruntime"):
        needs(ONNX, package, "export")
    (out / ONNX).mkdir()
    image, step, batch = _Image(teller).eval(), _Step(teller.decoder).eval(), Dim("batch", min=1)
    images, nothing = image(pixels), _nothing_read(teller.decoder, len(pixels))
    ids = torch.zeros(len(pixels), 3, dtype=torch.int64)
    given = {
        "input_ids": ids,
        "places": torch.arange(3).repeat(len(pixels), 1),
        "keys": nothing,
        "values": nothing.clone(),
    }
    given |= dict(zip(IMAGE_OUTPUTS, images, strict=True))
    sizes = {0: batch, 1: Dim("tokens", min=1)}
    with quietly():
        save_onnx(Traced(image, {"pixel_values": pixels}, [{0: batch}], IMAGE_OUTPUTS), str(out / ONNX / "image.onnx"))
        save_onnx(Traced(step, given, [sizes, sizes, *[{1: batch}] * 4], STEP_OUTPUTS), str(out / ONNX / "step.onnx"))


def _compared(out: Path, model: TextModel, pixels: Tensor, prompts: Sequence[Sequence[int]]) -> list[Check]:
    """Compare the graphs with the model: outputs, and texts from greedy decoding, one text at a time."""
    image, step = load_onnx(str(out / ONNX / "image.onnx")), load_onnx(str(out / ONNX / "step.onnx"))
    found = []
    for what, theirs, ours in zip(IMAGE_OUTPUTS, image(pixels), _Image(model.teller)(pixels), strict=True):
        found.append(compare(ONNX, what, theirs, ours, 10 * FLOAT * max(1.0, float(ours.abs().max()))))
    for row, prompt in enumerate(prompts):
        own = pixels[row : row + 1]
        end = model.text.tokenizer.end
        most = min(MOST, model.teller.decoder.shape.length - len(prompt))
        (written,) = write(model.teller.decoder, model.teller.look(own), [prompt], end, Writing(most=most))
        by_graphs = _written(image, step, model.teller.decoder, own, prompt, end, most)
        if by_graphs != written:
            raise BadInput(f"{ONNX} writes {model.text.read(by_graphs)!r}, and the model {model.text.read(written)!r}")
    ids = torch.tensor([list(prompt)[:2] for prompt in prompts])
    nothing, places = _nothing_read(model.teller.decoder, len(ids)), torch.arange(2).repeat(len(ids), 1)
    logits = step(ids, places, nothing, nothing, *image(pixels))[0]
    wanted = model.teller.decoder(ids, model.teller.look(pixels))
    tolerance = 10 * FLOAT * max(1.0, float(wanted.abs().max()))
    return [*found, compare(ONNX, f"logits of {len(ids)}", logits, wanted, tolerance)]


def _written(
    image: Callable[..., tuple[Tensor, ...]],
    step: Callable[..., tuple[Tensor, ...]],
    decoder: TextDecoder,
    pixels: Tensor,
    prompt: Sequence[int],
    end: int,
    most: int,
) -> list[int]:
    """Tokens that the graphs generate greedily for one image, at most `most`."""
    seen, keys = image(pixels), _nothing_read(decoder, 1)
    values, ids, places, found = keys, torch.tensor([list(prompt)]), torch.arange(len(prompt))[None], list[int]()
    while True:
        logits, keys, values = step(ids, places, keys, values, *seen)
        token = int(logits[0, -1].argmax())
        if token == end:
            return found
        found.append(token)
        if len(found) == most:
            return found
        ids, places = torch.tensor([[token]]), places[:, -1:] + 1
