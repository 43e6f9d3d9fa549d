"""Tokens that are kept on disk."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

from silc.errors import BadInput
from silc.heads.decoder.kept import KeptTokens
from silc.heads.decoder.learner import TextLearner

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


@pytest.mark.parametrize("left", [0, 60, 150, None])
def test_a_file_that_a_power_cut_broke_is_made_again(left: int | None, tmp_path: Path) -> None:
    module = Looking(KeptTokens(tmp_path, "a"))
    whole, file = module(PIXELS), next(tmp_path.rglob("*.npy"))
    content = file.read_bytes()
    file.write_bytes(b"none" if left is None else content[:left])
    assert file.read_bytes() != content
    assert torch.equal(module(PIXELS), whole)
    assert module.seen == 3
    assert file.read_bytes() == content


def test_a_folder_that_cannot_be_used_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInput, match=rf"data\.cache {tmp_path / 'file'} cannot be used: .*; name another folder"):
        Looking(KeptTokens(tmp_path / "file", "a"))(PIXELS)


def test_blocks_of_a_tower_with_kept_tokens_are_not_sharded(tmp_path: Path) -> None:
    """A rank that finds all of its images does not look, and others would wait for its share of a block."""
    tower = SimpleNamespace(trunk=SimpleNamespace(blocks=["first", "second"]))
    for kept, blocks in ((None, ["first", "second"]), (KeptTokens(tmp_path, "a tower"), [])):
        assert TextLearner(cast("Any", SimpleNamespace(visual=tower, kept=kept))).blocks() == blocks
