"""Settings of PACL: its data and its training. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal

from silc.config import DownstreamConfig
from silc.data.config import CropConfig, DataConfig
from silc.errors import BadInput
from silc.given import Idle
from silc.heads.config import ON_PAIRS, TOWERS_STAY
from silc.settings import Range
from silc.training.config import OptimConfig, TrainConfig

OPTIM = OptimConfig(lr=5e-4, weight_decay=0.2, schedule="cosine", warmup="0 steps", cooldown="0 steps")
TRAIN = TrainConfig("10 epochs", 4096, optim=OPTIM, precision="auto")
DATA = DataConfig(crops=CropConfig(num_global=1, num_local=0), exif_orientation="apply")


@dataclass(frozen=True)
class PaclConfig(DownstreamConfig):
    """PACL: an embedding of patches on frozen towers; each text weights the patches of an image."""

    kind: ClassVar[str] = "pacl"
    data: DataConfig = field(default=DATA)
    """Image-text pairs; an image gives one cropped view (which crop is our choice)."""
    hidden: Annotated[int, Range(least=0, most=65_536)] = 0
    """Width of the hidden layer; 0: the width of the texts' features. Our choice."""
    activation: Literal["relu", "gelu"] = "relu"
    """Activation between the two layers. Our choice."""
    similarity: Literal["cosine", "dot"] = "cosine"
    """Similarity of a patch and a text: whether both are scaled to unit length first. Our choice."""
    unit_pooled: bool = False
    """Also scale the feature pooled for a text to unit length. Our choice."""
    text_layer: bool = False
    """Add a linear layer on the text features. The paper has none."""
    temperature: Annotated[float, Range(least=0.001, most=100)] = 0.07
    """Temperature of the image-text loss, fixed. Our choice."""
    train: TrainConfig = field(default=TRAIN)
    """Optimisation: AdamW at 5e-4, cosine, decay 0.2, 10 epochs in batches of 4,096, as in a reproduction."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.train.batch_size < 2:
            raise BadInput("train.batch_size is 1, but PACL compares a pair with others; needed at least 2")


IDLE: tuple[Idle, ...] = (*ON_PAIRS, *TOWERS_STAY)
