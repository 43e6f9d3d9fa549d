"""What tests of imported models share: weights in which nothing hides, and a tokenizer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from silc.data.tokenizer import BPETokenizer

CAPTIONS = ["a photo of a cat", "two dogs on the beach", "the red car", "people in a street, seen from above"]


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a tokenizer of ours, of 300 entries or so."""
    directory = tmp_path_factory.mktemp("tokenizer")
    BPETokenizer.train(CAPTIONS, vocab_size=300, context_length=16).save(directory)
    return directory


@pytest.fixture
def drawn() -> Callable[[nn.Module], nn.Module]:
    """Draw every parameter anew: no bias hides in zeros, no norm in ones, and deep towers stay tame."""

    def draw(module: nn.Module) -> nn.Module:
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for name, parameter in module.named_parameters():
                noise = torch.randn(parameter.shape, generator=generator)
                if parameter.ndim < 2:
                    parameter.copy_(0.2 * noise + ("norm" in name or "ln_" in name) * name.endswith("weight"))
                else:
                    parameter.copy_(noise * parameter[0].numel() ** -0.5)
        return module.eval()

    return draw
