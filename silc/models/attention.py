"""Which code attention takes: torch's fused kernel, or two products and a softmax."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import nn


def choose_attention(model: nn.Module, device: torch.device, *, half: bool) -> None:
    """Switch every attention of a model to the faster code.

    The fused kernel for bfloat16 on a CPU takes seven times as long as plain products on a local view's 36 tokens and
    three times on a global view's 256 (torch 2.15, AVX-512, forward and backward; docs/performance.md). Everywhere else
    it is the faster one, and keeps no attention matrix.
    """
    fused = not (half and device.type == "cpu")
    module: Any
    for module in model.modules():
        if hasattr(module, "fused_attn"):
            module.fused_attn = fused
