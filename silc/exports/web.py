"""A page without a server: what `silc serve` shows, computed in the browser by onnxruntime-web (WebAssembly).

    web/index.html, *.js, page.css     the page of `silc serve`, whose api.js asks a worker instead of a server
    web/model.json, image.onnx, text.onnx, tokenizer.json, tokenizer_config.json
    web/runtime/                       onnxruntime-web and a tokenizer, from npm

Any file server can serve it: `python -m http.server --directory DIR/web`.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import silc
from silc.eval.pictures import colour
from silc.eval.prompts import template_sets, templates
from silc.exports import runtime
from silc.exports.eight_bits import lighten
from silc.exports.formats import WEB
from silc.exports.graphs import Graphs, Traced, as_onnx, load_onnx
from silc.exports.verify import Probe, compare_directions

if TYPE_CHECKING:
    from silc.interop.pretrained import Pretrained

PAGE = Path(silc.__file__).parent / "serve" / "page"
ALONE = Path(__file__).parent / "alone"
"""Modules that replace modules of the page, or stand beside them."""
MODULES = '<script type="module" src="page.js"></script>'
POLICY = (
    "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; worker-src 'self'; style-src 'self'; "
    "img-src 'self' blob: data:; connect-src 'self'; base-uri 'none'; form-action 'none'"
)
MOST_NAMES, PIXELS, PICTURE_BYTES = 100, 16_000_000, 20 * 2**20
"""The same limits as a server's."""


@dataclass(frozen=True)
class Web(Graphs):
    """Graphs with 8 bits a weight, and the page that computes with them."""

    def write(self, directory: Path, probe: Probe) -> None:
        """As for any format.

        Raises:
            BadInput: a package is not installed, or not available (`silc.exports.runtime`).
        """
        super().write(directory, probe)
        out, words = directory / self.NAME, probe.model.tokenizer
        for file in sorted([*PAGE.iterdir(), *ALONE.iterdir()], key=lambda one: one.parent == ALONE):
            shutil.copyfile(file, out / file.name)
        for name in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copyfile(directory / "tokenizer" / name, out / name)
        index = (out / "index.html").read_text(encoding="utf-8")
        policy = f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        (out / "index.html").write_text(index.replace(MODULES, policy + MODULES), encoding="utf-8")
        runtime.write(out / "runtime")
        (out / "model.json").write_text(json.dumps(_told(probe, words)) + "\n", encoding="utf-8")

    def notes(self, model: Pretrained) -> list[str]:
        """What this format does not carry."""
        return [
            "linear layers have 8 bits per weight and one scale per output; WebAssembly computes in float32 on one "
            "thread",
            "the page segments the whole picture as one window, by cosines; `silc serve` has windows and decoders",
            "WebGPU is not used: its numbers were not compared",
        ]


def _told(probe: Probe, words: Any) -> dict[str, Any]:
    """What the page must know about the model."""
    model, towers = probe.model, probe.model.model
    return {
        "version": silc.__version__,
        "name": model.name,
        "patch": model.patch_size,
        "preprocess": asdict(model.preprocess),
        "length": words.context_length,
        "end": words.eos_id,
        "padding": words.pad_id,
        "contrastive": probe.pretrained.contrastive,
        "scale": towers.logit_scale.exp().item(),
        "bias": towers.logit_bias.item(),
        "templates": {name: templates(name) for name in template_sets()},
        "colours": [colour(index) for index in range(MOST_NAMES)],
        "most_names": MOST_NAMES,
        "pixels": PIXELS,
        "picture_bytes": PICTURE_BYTES,
    }


def _save(one: Traced, file: str) -> None:
    import onnx

    model = as_onnx(one).model_proto
    lighten(model)
    onnx.save(model, file)


FORMAT = Web(WEB, ".onnx", ("onnx", "onnxscript", "onnxruntime"), "export", _save, load_onnx, compare_directions)
