"""Attention by plain products equals the fused kernel, forward and gradient, in float32 and bfloat16."""

from __future__ import annotations

import pytest
import torch

from silc.models.attention import choose_attention
from silc.models.config import ImageTowerConfig, TextTowerConfig
from silc.models.image import ImageTower
from silc.models.text import TextTower

CPU = torch.device("cpu")


@pytest.mark.parametrize("pool", ["map", "cls"])
@pytest.mark.parametrize("half", [False, True], ids=["float32", "bf16"])
def test_image_tower(pool: str, half: bool) -> None:
    tower = ImageTower(ImageTowerConfig(size=32, patch=8, width=32, depth=2, heads=2, mlp=64, pool=pool), 32)
    _same(tower, torch.randn(3, 3, 24, 24), half)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("half", [False, True], ids=["float32", "bf16"])
def test_text_tower(causal: bool, half: bool) -> None:
    config = TextTowerConfig(length=9, width=32, depth=2, heads=4, mlp=64, causal=causal)
    _same(TextTower(config, 32, vocab_size=50, eos_id=1), torch.randint(2, 50, (5, 9)), half)


def test_only_bfloat16_on_a_cpu_goes_without_the_fused_kernel() -> None:
    tower = TextTower(TextTowerConfig(length=4, width=8, depth=1, heads=2, mlp=8), 8, vocab_size=9, eos_id=1)
    (attention,) = (m for m in tower.modules() if hasattr(m, "fused_attn"))
    for device, half, fused in (("cpu", True, False), ("cpu", False, True), ("cuda", True, True)):
        choose_attention(tower, torch.device(device), half=half)
        assert attention.fused_attn is fused


def _same(tower: torch.nn.Module, given: torch.Tensor, half: bool) -> None:
    found = []
    for plain in (False, True):
        choose_attention(tower, CPU, half=plain)
        tower.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            out = tower(given)
        out.float().square().sum().backward()
        found.append([out.detach().float(), *(p.grad.clone() for p in tower.parameters() if p.grad is not None)])
    tolerance = 5e-2 if half else 1e-5
    for fused, plain in zip(*found, strict=True):
        assert (fused - plain).abs().max() <= tolerance * fused.abs().max()
