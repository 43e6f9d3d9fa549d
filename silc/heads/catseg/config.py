"""What a CAT-Seg head is, what it is trained on, and how. Imports no torch.

Defaults are those of the authors' B/16 configuration (`configs/vitb_384.yaml`). Their L/14 sees 336 pixels (size 336).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal

from silc.config import DownstreamConfig
from silc.errors import BadInput
from silc.given import ALONG, TRAINING, Idle
from silc.settings import COUNT, Range, Settings
from silc.training.config import OptimConfig, TrainConfig

SIDE, CHANNELS = Range(least=8, most=8192), Range(least=1, most=65_536)
OPTIM = OptimConfig(
    lr=2e-4,
    betas=(0.9, 0.999),
    weight_decay=1e-4,
    clip_norm=0.01,
    schedule="cosine",
    warmup="0 steps",
    cooldown="0 steps",
)
TRAIN = TrainConfig("80k steps", 4, optim=OPTIM, precision="auto", save_every="5k steps")


@dataclass(frozen=True)
class CatSegDataConfig(Settings):
    """Images with label maps."""

    section: ClassVar[str] = "data"
    train: str = ""
    """A folder: a set as its authors laid it out (COCO-Stuff's images/ and annotations/), or classes.txt with
    train/images and train/labels."""
    split: str = "train"
    """The folder of one's own set in which images and labels are; a set without splits is learnt from whole."""
    colours: bool = True
    """Change brightness, contrast, saturation and hue at random, as SSD does."""
    workers: Annotated[int, Range(least=0, most=1024)] = 4
    """Processes that read images; 0 reads in the main one."""
    exif_orientation: Literal["ignore", "apply"] = "apply"
    """Whether a photograph is turned as EXIF says that the camera was held."""


@dataclass(frozen=True)
class AggregatorConfig(Settings):
    """The network that aggregates costs."""

    section: ClassVar[str] = "aggregator"
    width: Annotated[int, CHANNELS] = 128
    """Channels of an embedded cost."""
    layers: Annotated[int, Range(least=1, most=1000)] = 2
    """Pairs of a Swin pair over places and a transformer over classes."""
    heads: Annotated[int, CHANNELS] = 4
    """Of both attentions."""
    window: Annotated[int, COUNT] = 12
    """Most patches along a side of Swin's windows; those that are taken divide the grid."""
    pool: Annotated[int, Range(least=1, most=1024)] = 2
    """Patches along a side that are pooled before the transformer over classes, in training; never in use."""
    guidance: Annotated[int, CHANNELS] = 128
    """Channels that appearance and text are projected to, beside the costs."""
    decoder: Annotated[tuple[int, int], CHANNELS] = (64, 32)
    """Channels of the two upsampling stages; multiples of 16."""
    decoder_guidance: Annotated[tuple[int, int], CHANNELS] = (256, 128)
    """Channels of intermediate layers as they are upsampled for the decoder."""
    decoder_projected: Annotated[tuple[int, int], CHANNELS] = (32, 16)
    """Channels of these as the decoder takes them."""
    classes: Annotated[int, Range(least=1, most=1_000_000)] = 256
    """Classes that are looked at together: fewer are filled up with a learnt token; of more, each image keeps those of
    the highest cosines, and the others score -100."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.width % self.heads:
            raise BadInput(f"aggregator.width {self.width} is no multiple of aggregator.heads {self.heads}")
        if any(channels < 16 or channels % 16 for channels in self.decoder):
            raise BadInput(f"aggregator.decoder is {self.decoder}; its norms need multiples of 16")
        before = (self.width, self.decoder[0])
        if any(own >= channels for own, channels in zip(self.decoder_projected, before, strict=True)):
            raise BadInput(
                f"aggregator.decoder_projected {self.decoder_projected} must be below {before}, what it joins"
            )


@dataclass(frozen=True)
class CatSegConfig(DownstreamConfig):
    """CAT-Seg: open-vocabulary segmentation by aggregated costs, learnt from images with label maps."""

    kind: ClassVar[str] = "catseg"
    data: CatSegDataConfig = field(default_factory=CatSegDataConfig)
    """Images with label maps."""
    crop: Annotated[int, SIDE] = 384
    """Pixels of a training crop, and of a window in use; the canvas that windows slide over is 5/3 of that."""
    size: Annotated[int, Range(least=0, most=8192, advice="0: the crop's")] = 0
    """Pixels that the towers see a crop or window at; 0: as it is."""
    layers: tuple[int, ...] = ()
    """Two blocks of the image tower, from 0, whose tokens guide the decoder. Empty: those at a third and two thirds,
    3 and 7 of B's, 7 and 15 of L's."""
    readout: str = ""
    """Patch features that costs are made of. Empty: CAT-Seg's own where there is a class token, else the first of the
    pooling's dense readouts."""
    templates: str = "catseg"
    """Prompts around the names of classes: each is a channel of the costs. `catseg` is one, a photo in the scene."""
    aggregator: AggregatorConfig = field(default_factory=AggregatorConfig)
    """The network."""
    tower_lr: Annotated[float, Range(least=0, most=1)] = 0.01
    """Share of the learning rate for what the towers learn: queries and values, or with train.optim.lora low-rank
    changes. Towers of train.optim.freeze stay as they are."""
    train: TrainConfig = field(default=TRAIN)
    """Optimisation."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.layers) not in (0, 2):
            raise BadInput(f"layers names two blocks of the image tower, one for each stage; got {len(self.layers)}")


IDLE = (
    Idle("train.passes train.held_out train.optim.layer_decay train.optim.decay", lambda _: True, "CAT-Seg has none"),
    *TRAINING,
    Idle("tower_lr", lambda c: {"image", "text"} <= set(c.train.optim.freeze), "the towers stay as they are"),
    ALONG,
)
