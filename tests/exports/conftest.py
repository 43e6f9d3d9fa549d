"""Models to export: tiny, every parameter drawn, so that no bias hides in zeros and no norm in ones."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from silc.data.tokenizer import BPETokenizer
from silc.interop import pretrained
from silc.interop.pretrained import Pretrained
from silc.models.config import ImageTowerConfig, ModelConfig, TextTowerConfig
from silc.models.silc import TwoTower
from silc.preprocess import Preprocess

CAPTIONS = ["a photo of a cat", "two dogs on the beach", "the red car", "people in a street, seen from above"]
IMAGE = ImageTowerConfig(size=32, patch=8, width=32, depth=1, heads=2, mlp=80)
TEXT = TextTowerConfig(length=64, width=32, depth=1, heads=2, mlp=48)
CLIP_IMAGE = ImageTowerConfig(
    **{**vars(IMAGE), "pool": "cls", "projection": "linear", "pre_norm": True, "norm_eps": 1e-5}
)
CLIP_TEXT = TextTowerConfig(**{**vars(TEXT), "causal": True, "pool": "eos", "projection": "linear", "length": 24})


def draw(towers: TwoTower) -> TwoTower:
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in towers.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if name == "logit_bias":
                continue
            if parameter.ndim < 2:
                parameter.copy_(0.2 * noise + ("norm" in name or "ln_" in name) * name.endswith("weight"))
            else:
                parameter.copy_(noise * parameter[0].numel() ** -0.5)
    towers.logit_scale.data.fill_(1.75)
    return towers


@pytest.fixture(scope="session")
def tokenizer() -> BPETokenizer:
    return BPETokenizer.train(CAPTIONS, vocab_size=300, context_length=64)


@pytest.fixture
def saved(tmp_path: Path, tokenizer: BPETokenizer) -> Callable[..., Path]:
    """A directory of `silc import` with a model of these towers."""

    def make(
        image: ImageTowerConfig = IMAGE,
        text: TextTowerConfig = TEXT,
        *,
        embed_dim: int = 32,
        bias: float = 0.0,
        contrastive: str = "sigmoid",
        **pixels: object,
    ) -> Path:
        words = BPETokenizer(type(tokenizer.tokenizer).from_str(tokenizer.tokenizer.to_str()), text.length)
        model = ModelConfig(image=image, text=TextTowerConfig(**{**vars(text), "vocab_size": 310}), embed_dim=embed_dim)
        towers = draw(TwoTower(model, vocab_size=310, eos_id=words.eos_id, scale_init=1.0, bias_init=bias))
        preprocess = Preprocess(image.size, **pixels)  # type: ignore[arg-type]
        made = Pretrained(model, towers.state_dict(), words, preprocess, contrastive, "drawn")  # type: ignore[arg-type]
        directory = tmp_path / "model"
        pretrained.save(made, directory)
        return directory

    return make
