"""Disk cache for the tokens of a frozen tower: an image goes through the tower once, for all questions and epochs.

Each image has its own file, named by a checksum of its input pixels and of the tower. Another tower, image size or
crop gives other names, so old tokens are never used for new ones.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from silc.errors import BadInput


@dataclass(frozen=True)
class KeptTokens:
    """A folder of tokens.

    Args:
        tower: what the tokens depend on besides the pixels: checksum and name of the weights, normalisation, precision.
    """

    folder: Path
    tower: str

    @torch.compiler.disable  # type: ignore[untyped-decorator]  # files are no part of a graph
    def of(self, pixels: Tensor, look: Callable[[Tensor], Tensor]) -> Tensor:
        """Tokens [B, T, C] of pixels uint8 [B, 3, S, S]; `look` computes those that are not there.

        Raises:
            BadInput: the folder cannot be written or read.
        """
        files = [self._file(one) for one in pixels.cpu().numpy()]
        try:
            kept = {row: tokens for row, file in enumerate(files) if (tokens := _whole(file)) is not None}
            if absent := [row for row in range(len(files)) if row not in kept]:
                for row, tokens in zip(absent, look(pixels[absent]).float().cpu().numpy(), strict=True):
                    self._keep(files[row], tokens)
                    kept[row] = tokens
        except OSError as error:
            raise BadInput(f"data.cache {self.folder} cannot be used: {error}; name another folder") from error
        return torch.from_numpy(np.stack([kept[row] for row in range(len(files))])).to(pixels.device)

    def _file(self, pixels: np.ndarray) -> Path:
        digest = hashlib.sha256(f"{self.tower}\n{pixels.shape}\n".encode() + pixels.tobytes()).hexdigest()
        return self.folder / digest[:2] / f"{digest[2:]}.npy"

    def _keep(self, file: Path, tokens: np.ndarray) -> None:
        """Write a file under another name first, because another rank may read it at any time.

        The file is not flushed to disk: if a power cut damages it, the tokens are computed again.
        """
        file.parent.mkdir(parents=True, exist_ok=True)
        beside = file.with_name(f".{file.name}.{np.random.default_rng().integers(2**63)}.npy")
        np.save(beside, tokens)
        beside.replace(file)


def _whole(file: Path) -> np.ndarray | None:
    """The tokens in a file; None if the file is missing or incomplete."""
    try:
        tokens: np.ndarray = np.load(file)
    except (FileNotFoundError, EOFError, ValueError):
        return None
    return tokens
