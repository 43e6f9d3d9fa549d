"""Tokens that are kept on disk."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from silc.errors import BadInput
from silc.heads.decoder.kept import KeptTokens

PIXELS = torch.arange(96, dtype=torch.uint8).view(2, 3, 4, 4)


class Looking(nn.Module):
    def __init__(self, kept: KeptTokens) -> None:
        super().__init__()
        self.kept, self.seen = kept, 0

    def look(self, pixels: Tensor) -> Tensor:
        self.seen += len(pixels)
        return pixels.float().flatten(2)

    def forward(self, pixels: Tensor) -> Tensor:
        return self.kept.of(pixels, self.look) * 2


def test_an_image_is_seen_once_and_by_each_tower(tmp_path: Path) -> None:
    one, other = Looking(KeptTokens(tmp_path, "a")), Looking(KeptTokens(tmp_path, "b"))
    for pixels, seen in ((PIXELS[:1], 1), (PIXELS, 2), (PIXELS.flip(0), 2)):
        assert torch.equal(one(pixels), 2 * pixels.float().flatten(2))
        assert one.seen == seen
    other(PIXELS)
    assert other.seen == 2
    assert len(list(tmp_path.rglob("*.npy"))) == 4


def test_compiled_forward_passes_read_them_too(tmp_path: Path) -> None:
    module = Looking(KeptTokens(tmp_path, "a"))
    compiled = torch.compile(module, backend="eager")
    for _ in range(2):
        assert torch.equal(compiled(PIXELS), 2 * PIXELS.float().flatten(2))
    assert module.seen == 2


def test_a_folder_that_cannot_be_used_is_told(tmp_path: Path) -> None:
    module = Looking(KeptTokens(tmp_path, "a"))
    module(PIXELS)
    for file in tmp_path.rglob("*.npy"):
        file.write_bytes(b"none")
    with pytest.raises(BadInput, match=rf"data\.cache {tmp_path} cannot be used: .*; name another folder"):
        module(PIXELS)
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInput, match="cannot be used"):
        Looking(KeptTokens(tmp_path / "file", "a"))(PIXELS)
