"""Read untrusted JSON and safetensors files, local or on the hub. Errors are one line each; no code in them is run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError

from silc.errors import BadInput
from silc.regular import regular

SAVED, OPEN_CLIP, HUGGING_FACE = "silc.json", "open_clip_config.json", "config.json"
"""The file that shows the format of a model's directory: silc's (an import or export), open_clip's, the hub's."""

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor


def read_json(file: Path) -> dict[str, Any]:
    """Read an object from a JSON file.

    Raises:
        BadInput: the file cannot be read, or holds no object.
    """
    try:
        value = json.loads(regular(file).read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise BadInput(f"cannot read {file}: {error}") from error
    if not isinstance(value, dict):
        raise BadInput(f"{file} holds no JSON object")
    return value


def read_safetensors(file: Path) -> dict[str, Tensor]:
    """Read the tensors of a .safetensors file. Pickles are refused: reading one runs code that its author wrote.

    Raises:
        BadInput: no such file, a pickle, or a damaged file.
    """
    if not file.is_file():
        raise BadInput(f"{file} does not exist")
    if file.suffix != ".safetensors":
        raise BadInput(
            f"{file} is not a .safetensors file but may be a pickle, which can run code when it is read; if you "
            "trust it, convert it once: `python -m silc.interop.unpickle FILE OUT.safetensors`"
        )
    from safetensors.torch import load_file  # loads torch, which is not needed only to look for models

    try:
        return load_file(file)
    except (OSError, SafetensorError) as error:
        raise BadInput(f"{file} is damaged or no safetensors file: {error}") from error


def three(values: Any, where: str | Path) -> tuple[float, float, float]:
    """Three numbers, for red, green and blue.

    Raises:
        BadInput: they are not three numbers.
    """
    try:
        red, green, blue = map(float, values)
    except (TypeError, ValueError):
        raise BadInput(f"{where}: mean and std must be three numbers; got {values}") from None
    return red, green, blue


def download(repo: str, patterns: Sequence[str], *, spec: str) -> Path:
    """Download the files of a repository that match `patterns`, or take them from the cache; return their directory.

    Args:
        repo: ORG/NAME.
        spec: prefix that the user writes for such a source, for the message.

    Raises:
        BadInput: there is no such repository, or it cannot be reached.
    """
    from huggingface_hub import snapshot_download  # not needed only to look for models

    try:
        return Path(snapshot_download(repo, allow_patterns=list(patterns)))
    except Exception as error:  # httpx, huggingface_hub and the file system raise different types
        instead = f"copy its directory here (`hf download {repo} --local-dir DIR`) and give {spec}DIR"
        raise no_network(repo, error, instead) from error


def no_network(what: str, error: BaseException, instead: str) -> BadInput:
    """The error for something that could not be fetched."""
    reason = next(iter(str(error).strip().splitlines()), "") or type(error).__name__
    return BadInput(f"cannot fetch {what} ({reason}); without a network {instead}")
