"""`silc export`: a model for other libraries."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import tyro

from silc.commands import flags
from silc.commands.flags import WEIGHTS_OF_RUNS, ModelName, TokenizerPath, WeightsName
from silc.exports import formats
from silc.given import Idle
from silc.terminal import announce, say


@dataclass(frozen=True)
class ExportCommand:
    """Write a model for other libraries, all formats or none; each is read back and compared before the folder
    appears."""

    idle: ClassVar[tuple[Idle, ...]] = (WEIGHTS_OF_RUNS,)
    model: ModelName
    out: tyro.conf.Positional[str]
    """Directory to write."""
    formats: str = "auto"
    """Some of open_clip, transformers, onnx, torch_export, int8, web (a page without a server), separated by commas;
    silc's own is always written. `auto`: open_clip,transformers; for a trained head, onnx."""
    weights: WeightsName = "auto"
    tokenizer: TokenizerPath = ""
    license: str = "unknown"
    """License in the model card, as the hub names it, e.g. apache-2.0."""
    datasets: str = ""
    """Data sets in the model card, ORG/NAME separated by commas."""
    decoder: str = ""
    """Add a graph that makes class maps of images and texts, to onnx and torch_export: radseg, or another decoder."""


def main(args: list[str]) -> int:
    """Export a model; prints what was compared."""
    command = flags.read(ExportCommand, args, "silc export")
    asked = formats.asked_of(command.model, None if command.formats == "auto" else _listed(command.formats))
    out = formats.check(command.model, command.out, asked, command.decoder)
    announce(f"export: {command.model} as {','.join(asked)} into {out}")
    from silc.exports.directory import export

    checks = export(
        command.model,
        out,
        asked,
        weights=command.weights,
        tokenizer=command.tokenizer or None,
        license=command.license,
        datasets=_listed(command.datasets),
        decoder=command.decoder,
    )
    say("\n".join(map(str, checks)))
    say(f"exported: {out}   its description: {out / 'README.md'}")
    return 0


def _listed(names: str) -> list[str]:
    return [name.strip() for name in names.split(",") if name.strip()]
