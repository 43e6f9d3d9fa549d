"""Settings of a text decoder: its shape, its data and its training. Imports no torch.

LiT-decoder's constants are not published. Shape and optimiser are near those of big_vision's CapPa decoder
(`configs/proj/cappa/pretrain.py`), except for width and depth: CapPa's are those of a larger model. So all scores are
by our own protocol.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal

from silc.config import DownstreamConfig
from silc.errors import BadInput
from silc.given import ALONG, TRAINING, Idle
from silc.settings import SHARE, Range, Settings
from silc.training.config import OptimConfig, TrainConfig

OPTIM = OptimConfig(
    lr=1e-3, betas=(0.9, 0.999), weight_decay=0.1, schedule="cosine", warmup="5%", cooldown="0 steps", freeze=("image",)
)
TRAIN = TrainConfig("10 epochs", 256, optim=OPTIM, precision="auto")


@dataclass(frozen=True)
class TextDataConfig(Settings):
    """Images with captions, and with questions and answers."""

    section: ClassVar[str] = "data"
    train: str = ""
    """Training tasks as PREFIX:PLACE, joined by commas: 'caption:DATA/coco,vqa:DATA/vqav2'. The prefix `caption` reads
    captions; any other prefix reads questions. Every prompt begins with its prefix, which tells the tasks apart."""
    cache: str = ""
    """Folder that caches the tokens of a frozen image tower, by checksums of weights and pixels. Empty: no cache."""
    vocab_size: Annotated[int, Range(least=259, most=1_000_000)] = 8192
    """Maximum entries of the tokenizer, which is trained on the texts."""
    workers: Annotated[int, Range(least=0, most=1024)] = 4
    """Processes that read images; 0 reads in the main one."""
    exif_orientation: Literal["ignore", "apply"] = "apply"
    """Whether a photograph is rotated according to its EXIF orientation."""


@dataclass(frozen=True)
class DecoderConfig(DownstreamConfig):
    """Captions and answers by a text decoder on a frozen image tower, in the manner of LiT-decoder."""

    kind: ClassVar[str] = "decoder"
    data: TextDataConfig = field(default_factory=TextDataConfig)
    """Images with texts."""
    size: Annotated[int, Range(least=0, most=8192, advice="0: the model's own")] = 0
    """Side in pixels of the square that images are squashed to, a multiple of the patch."""
    depth: Annotated[int, Range(least=1, most=64)] = 4
    """Number of blocks; each has causal self-attention, cross-attention to the image's tokens, and an MLP."""
    width: Annotated[int, Range(least=8, most=16_384)] = 512
    """Width of the decoder's tokens."""
    heads: Annotated[int, Range(least=1, most=1024)] = 8
    """Attention heads; the width must be a multiple of this."""
    mlp: Annotated[int, Range(least=0, most=65_536, advice="0: four times the width")] = 0
    """Width of the MLPs; 0: four times the decoder's width."""
    length: Annotated[int, Range(least=8, most=4096)] = 64
    """Maximum tokens of prefix, question and answer together. Prompt and answer are each cut to half of this."""
    dropout: Annotated[float, Range(least=0, below=1)] = 0.0
    """Dropout rate, in training, on what each part of a block adds."""
    whiten: bool = False
    """Put a linear layer before cross-attention that begins as ZCA whitening of the image's tokens, by 256 training
    images. It learns with the decoder."""
    image_lr: Annotated[float, SHARE] = 0.1
    """Fraction of the learning rate for the image tower, if train.optim.freeze does not name it."""
    train: TrainConfig = field(default=TRAIN)
    """Optimisation."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.width % self.heads:
            raise BadInput(f"width {self.width} is no multiple of heads {self.heads}; change one of them")
        if odd := [name for name in self.train.optim.freeze if name != "image"]:
            raise BadInput(f"train.optim.freeze names {odd[0]}, which decoder does not use; it may only name image")


IDLE = (
    Idle(
        "train.passes train.held_out train.optim.layer_decay train.optim.decay",
        lambda _: True,
        "decoder does not use it",
    ),
    *TRAINING,
    Idle("image_lr train.optim.lora", lambda c: "image" in c.train.optim.freeze, "the image tower is not trained"),
    Idle("data.cache", lambda c: "image" not in c.train.optim.freeze, "the image tower is trained"),
    ALONG,
)
