"""The formats there are, by the names they are asked for; what is refused before a model is read. No torch here."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from silc import places
from silc.errors import BadInput
from silc.rundir import check_model

OPEN_CLIP, TRANSFORMERS, ONNX, TORCH, INT8 = NAMES = ("open_clip", "transformers", "onnx", "torch_export", "int8")


def check(source: str | Path, out: str | Path, formats: Sequence[str]) -> Path:
    """The directory that an export of `source` is to make.

    Raises:
        BadInput: no such model or format, or a directory that cannot be written or is not empty.
    """
    unknown = [name for name in formats if name not in NAMES]
    if unknown or not formats:
        raise BadInput(f"no format '{', '.join(unknown)}'; there are: {', '.join(NAMES)}")
    check_model(source)
    return places.empty_folder(out)
