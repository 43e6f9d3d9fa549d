"""Settings of TCL: its data and its training. Imports no torch.

Numbers are those of kakaobrain/tcl `configs/tcl.yml`: 50,000 steps of 1,024 pairs; in 30,000 of them only the decoder
learns. Its learning rate of 3e-4 is for 4,096 pairs.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, ClassVar

from silc.config import DownstreamConfig
from silc.data.config import CropConfig, DataConfig
from silc.errors import BadInput
from silc.given import Idle
from silc.heads.config import ON_PAIRS, TOWERS_STAY
from silc.settings import SHARE, Duration, Range
from silc.training.config import OptimConfig, TrainConfig

OPTIM = OptimConfig(
    lr=7.5e-5, betas=(0.9, 0.999), weight_decay=0.05, clip_norm=5.0, schedule="cosine", warmup="30%", cooldown="0 steps"
)
TRAIN = TrainConfig("50k steps", 1024, optim=OPTIM, precision="auto")
DATA = DataConfig(crops=CropConfig(num_global=1, num_local=0), exif_orientation="apply")
WEIGHT, TEMPERATURE = Range(least=0, most=1000), Range(least=0.001, most=100)


@dataclass(frozen=True)
class TclConfig(DownstreamConfig):
    """TCL: a decoder on frozen towers learns masks of image-text pairs."""

    kind: ClassVar[str] = "tcl"
    data: DataConfig = field(default=DATA)
    """Image-text pairs; an image gives one cropped view."""
    alone: Annotated[str, Duration(zero=True)] = "60%"
    """First part of training: only decoder, projection and mask learn. Then the copy of the last block learns too."""
    contrast: Annotated[float, WEIGHT] = 0.1
    """Weight of each image-text loss: of masked images, and of features pooled within the masks of every text."""
    area: Annotated[float, WEIGHT] = 0.4
    """Weight of the area loss: how far the masks are from the fraction of the image that they should cover."""
    smooth: Annotated[float, WEIGHT] = 1.0
    """Weight of the roughness of features and masks."""
    prior: Annotated[float, SHARE] = 0.4
    """Fraction of an image that the mask of its own text should cover; masks of other texts should cover nothing."""
    temperature: Annotated[float, TEMPERATURE] = 0.07
    """Initial temperature of the image-text losses."""
    gumbel_temperature: Annotated[float, TEMPERATURE] = 1.0
    """Temperature of the noisy masks that hide a part of the image."""
    mask_scale: Annotated[float, Range(above=0, most=1000)] = 10.0
    """Initial scale of the masks sigmoid(scale cos + bias)."""
    mask_bias: Annotated[float, Range(least=-1000, most=1000)] = -2.5
    """Initial bias of these masks."""
    train: TrainConfig = field(default=TRAIN)
    """Optimisation."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.train.batch_size < 2:
            raise BadInput("train.batch_size is 1, but TCL compares a pair with others; needed at least 2")


IDLE: tuple[Idle, ...] = (*ON_PAIRS, *TOWERS_STAY)
