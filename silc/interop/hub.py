"""Files from the Hugging Face hub, or one line that says how to do without a network."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from huggingface_hub import snapshot_download

from silc.types import BadInput


def download(repo: str, patterns: Sequence[str], *, spec: str) -> Path:
    """The directory of a repository's files that match `patterns`, from the cache where they are there already.

    Args:
        repo: ORG/NAME.
        spec: how such a source is asked for, for the message.

    Raises:
        BadInput: there is no such repository, or no way to it.
    """
    try:
        return Path(snapshot_download(repo, allow_patterns=list(patterns)))
    except Exception as error:  # httpx, huggingface_hub and the file system each have their own
        instead = f"bring its directory here (`hf download {repo} --local-dir DIR`) and give {spec}DIR"
        raise no_network(repo, error, instead) from error


def no_network(what: str, error: BaseException, instead: str) -> BadInput:
    """The line for something that could not be fetched."""
    reason = next(iter(str(error).strip().splitlines()), "") or type(error).__name__
    return BadInput(f"cannot fetch {what} ({reason}); without a network {instead}")
