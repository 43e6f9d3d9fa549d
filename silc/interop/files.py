"""A stranger's files, JSON and safetensors, here or on the hub, or one line that says why not. No code is run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError

from silc.errors import BadInput
from silc.regular import regular

SAVED, OPEN_CLIP, HUGGING_FACE = "silc.json", "open_clip_config.json", "config.json"
"""The file that tells whose a directory of a model is: silc's own (an import or export), open_clip's, the hub's."""

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor


def read_json(file: Path) -> dict[str, Any]:
    """An object from a JSON file.

    Raises:
        BadInput: there is none.
    """
    try:
        value = json.loads(regular(file).read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise BadInput(f"cannot read {file}: {error}") from error
    if not isinstance(value, dict):
        raise BadInput(f"{file} holds no JSON object")
    return value


def read_safetensors(file: Path) -> dict[str, Tensor]:
    """Tensors of a .safetensors file. Pickles are refused: reading one runs whatever its author wrote.

    Raises:
        BadInput: no such file, a pickle, or a damaged file.
    """
    if not file.is_file():
        raise BadInput(f"{file} does not exist")
    if file.suffix != ".safetensors":
        raise BadInput(
            f"{file} is not a .safetensors file but may be a pickle, which can run code when it is read; where you "
            "trust it, convert it once: `python -m silc.interop.unpickle FILE OUT.safetensors`"
        )
    from safetensors.torch import load_file  # with torch, which those who only ask what is there do without

    try:
        return load_file(file)
    except (OSError, SafetensorError) as error:
        raise BadInput(f"{file} is damaged or no safetensors file: {error}") from error


def three(values: Any, where: str | Path) -> tuple[float, float, float]:
    """A number for each of red, green and blue.

    Raises:
        BadInput: they are not three numbers.
    """
    try:
        red, green, blue = map(float, values)
    except (TypeError, ValueError):
        raise BadInput(f"{where}: mean and std must be three numbers; got {values}") from None
    return red, green, blue


def download(repo: str, patterns: Sequence[str], *, spec: str) -> Path:
    """The directory of a repository's files that match `patterns`, from the cache where they are there already.

    Args:
        repo: ORG/NAME.
        spec: how such a source is asked for, for the message.

    Raises:
        BadInput: there is no such repository, or no way to it.
    """
    from huggingface_hub import snapshot_download  # those who only ask what is there do without

    try:
        return Path(snapshot_download(repo, allow_patterns=list(patterns)))
    except Exception as error:  # httpx, huggingface_hub and the file system each have their own
        instead = f"bring its directory here (`hf download {repo} --local-dir DIR`) and give {spec}DIR"
        raise no_network(repo, error, instead) from error


def no_network(what: str, error: BaseException, instead: str) -> BadInput:
    """The line for something that could not be fetched."""
    reason = next(iter(str(error).strip().splitlines()), "") or type(error).__name__
    return BadInput(f"cannot fetch {what} ({reason}); without a network {instead}")
