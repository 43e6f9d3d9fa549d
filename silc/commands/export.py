"""`silc export`: a model for other libraries."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import tyro

from silc import config as configs
from silc.commands import flags
from silc.commands.flags import WEIGHTS_OF_RUNS, ModelName, TokenizerPath, WeightsName
from silc.errors import BadInput
from silc.exports import formats
from silc.given import Idle
from silc.kinds import KINDS
from silc.terminal import announce, say
from silc.training.directory import CONFIG, is_run


@dataclass(frozen=True)
class ExportCommand:
    """Write a model for other libraries, all formats or none; each is read back and compared before it is there."""

    idle: ClassVar[tuple[Idle, ...]] = (WEIGHTS_OF_RUNS,)
    model: ModelName
    out: tyro.conf.Positional[str]
    """Directory to write."""
    formats: str = ""
    """Of open_clip, transformers, onnx, torch_export, int8, separated by commas; silc's own is always written. Empty:
    open_clip,transformers; of a head that is exported, onnx."""
    weights: WeightsName = "auto"
    tokenizer: TokenizerPath = ""
    license: str = "unknown"
    """For the model card, in the hub's words, e.g. apache-2.0."""
    datasets: str = ""
    """For the model card, ORG/NAME separated by commas."""
    decoder: str = ""
    """Add a graph from image and text features to class maps, to onnx and torch_export: radseg, or another decoder."""


def main(args: list[str]) -> int:
    """Export a model; says what was compared."""
    command = flags.read(ExportCommand, args, "silc export")
    of_head = _of_head(command.model)
    asked = _listed(command.formats) or ([formats.ONNX] if of_head else [formats.OPEN_CLIP, formats.TRANSFORMERS])
    if of_head and command.decoder:
        raise BadInput(f"{command.model} is a head, which makes class maps itself; leave out --decoder")
    out = formats.check(command.model, command.out, asked, command.decoder)
    announce(f"export: {command.model} as {','.join(asked)} into {out}")
    card: dict[str, Any] = {"license": command.license, "datasets": _listed(command.datasets)}
    if of_head:
        if command.weights != "auto":
            raise BadInput(f"{command.model} is a head, loaded as it was trained; leave out --weights")
        checks = KINDS[of_head].find("export")(command.model, out, asked, **card)
    else:
        from silc.exports.directory import export

        towers: dict[str, Any] = {"weights": command.weights, "tokenizer": command.tokenizer or None}
        checks = export(command.model, out, asked, **towers, **card, decoder=command.decoder)
    say("\n".join(map(str, checks)))
    say(f"exported: {out}   what to know of it: {out / 'README.md'}")
    return 0


def _of_head(model: str) -> str:
    """The kind of a run that has an export of its own; empty for all else."""
    if not is_run(model):
        return ""
    kind = configs.kind_of(Path(model) / CONFIG)
    return kind if KINDS[kind].export else ""


def _listed(names: str) -> list[str]:
    return [name.strip() for name in names.split(",") if name.strip()]
