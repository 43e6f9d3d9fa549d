"""The export formats by name, and the checks that need no model. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from silc import config as configs
from silc import places
from silc.errors import BadInput
from silc.kinds import KINDS
from silc.rundir import check_model
from silc.training.directory import CONFIG, is_run

NAMES = ("open_clip", "transformers", "onnx", "torch_export", "int8", "web")
OPEN_CLIP, TRANSFORMERS, ONNX, TORCH, INT8, WEB = NAMES
MAPPED = (ONNX, TORCH)
"""Formats that can hold class maps. With eight bits a weight, features change by more than decoders tolerate."""
DECODERS = ("cosine", "maskclip", "maskclip-reduced", "sclip", "clearclip", "naclip", "scra", "scga", "radseg")
"""Decoders that are a function of images and texts alone: no second encoder, no search for neighbours."""


def head_of(source: str | Path) -> str:
    """The kind of a run, if that kind has an export of its own; else empty."""
    if not is_run(source):
        return ""
    kind = configs.kind_of(Path(source) / CONFIG)
    return kind if KINDS[kind].export else ""


def asked_of(source: str | Path, formats: Sequence[str] | None) -> Sequence[str]:
    """The formats that are asked for; None means open_clip and transformers, or onnx for a head."""
    if formats is None:
        return [ONNX] if head_of(source) else [OPEN_CLIP, TRANSFORMERS]
    return formats


def check(source: str | Path, out: str | Path, formats: Sequence[str], decoder: str = "") -> Path:
    """Check an export of `source`; returns the directory that it is to make.

    Raises:
        BadInput: no such model or format, a decoder that cannot be a graph or that none of the formats holds, or a
            directory that cannot be written or is not empty.
    """
    unknown = [name for name in formats if name not in NAMES]
    if unknown or not formats:
        raise BadInput(f"no format '{', '.join(unknown)}'; there are: {', '.join(NAMES)}")
    if decoder and decoder not in DECODERS:
        raise BadInput(f"decoder '{decoder}' is not exported; those that can be: {', '.join(DECODERS)}")
    if decoder and not set(formats) & set(MAPPED):
        raise BadInput(f"class maps are written by formats {' and '.join(MAPPED)}; name one of them, or no decoder")
    check_model(source)
    return places.empty_folder(out)
