"""The two-tower model, and its form for evaluation and users."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import nn

from silc.models.image import ImageTower
from silc.models.readouts import READOUTS
from silc.models.text import TextTower

if TYPE_CHECKING:
    from torch import Tensor

    from silc.encoder import Tokenizer
    from silc.models.config import ModelConfig
    from silc.preprocess import Preprocess


class TwoTower(nn.Module):
    """Image tower, text tower, scale and bias.

    `logit_scale` and `logit_bias` have shape [1]: sharding refuses parameters without a dimension.
    """

    def __init__(
        self, config: ModelConfig, *, vocab_size: int, eos_id: int, scale_init: float = 1.0, bias_init: float = 0.0
    ) -> None:
        super().__init__()
        self.visual = ImageTower(config.image, config.embed_dim)
        self.text = TextTower(config.text, config.embed_dim, vocab_size=vocab_size, eos_id=eos_id)
        self.logit_scale = nn.Parameter(torch.full((1,), math.log(scale_init)))
        self.logit_bias = nn.Parameter(torch.full((1,), bias_init))


@dataclass
class Encoder:
    """A `DualEncoder`: towers with the tokenizer and preprocessing they were trained with.

    `visual` is given separately from `model` because the teacher averages only the image tower; the text tower is
    always the student's.
    """

    model: TwoTower
    visual: ImageTower
    tokenizer: Tokenizer
    preprocess: Preprocess
    name: str = ""
    second: Encoder | None = None
    """Another encoder, whose patches give a decoder its similarities between patches (ProxyCLIP, LPOSS)."""

    @property
    def patch_size(self) -> int:
        return self.visual.patch

    @property
    def readouts(self) -> tuple[str, ...]:
        return tuple(READOUTS[self.visual.pool])

    @property
    def device(self) -> torch.device:
        return self.model.logit_scale.device

    @torch.no_grad()
    def encode_image(self, images: Tensor) -> Tensor:
        return F.normalize(self.visual(images).float(), dim=-1)

    @torch.no_grad()
    def encode_pooled(self, images: Tensor) -> Tensor:
        return self.visual.pooled(images).float()

    @torch.no_grad()
    def encode_text(self, ids: Tensor, *, normalize: bool = True) -> Tensor:
        features = self.model.text(ids).float()
        return F.normalize(features, dim=-1) if normalize else features

    @torch.no_grad()
    def encode_dense(self, images: Tensor, readout: str) -> Tensor:
        return self.visual.dense(images, readout).float()
