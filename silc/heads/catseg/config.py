"""Settings of a CAT-Seg head: its shape, its data and its training. Imports no torch.

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
    """A folder: a dataset in its authors' layout (COCO-Stuff's images/ and annotations/), or classes.txt with
    train/images and train/labels."""
    split: str = "train"
    """For your own dataset: the subfolder with its images and labels. A dataset without splits is used whole."""
    colours: bool = True
    """Change brightness, contrast, saturation and hue at random, as SSD does."""
    workers: Annotated[int, Range(least=0, most=1024)] = 4
    """Processes that read images; 0 reads in the main one."""
    exif_orientation: Literal["ignore", "apply"] = "apply"
    """Whether a photograph is rotated according to its EXIF orientation."""


@dataclass(frozen=True)
class AggregatorConfig(Settings):
    """The network that aggregates costs."""

    section: ClassVar[str] = "aggregator"
    width: Annotated[int, CHANNELS] = 128
    """Channels of an embedded cost."""
    layers: Annotated[int, Range(least=1, most=1000)] = 2
    """Number of layers. Each has two Swin blocks over places and a transformer over classes."""
    heads: Annotated[int, CHANNELS] = 4
    """Heads of the attention over places, and of that over classes."""
    window: Annotated[int, COUNT] = 12
    """Largest side of Swin's windows, in patches; the side that is used divides the grid."""
    pool: Annotated[int, Range(least=1, most=1024)] = 2
    """Side, in patches, of the average pooling before the transformer over classes; only in training."""
    guidance: Annotated[int, CHANNELS] = 128
    """Channels that appearance and text are projected to; they guide the costs."""
    decoder: Annotated[tuple[int, int], CHANNELS] = (64, 32)
    """Channels of the two upsampling stages; multiples of 16."""
    decoder_guidance: Annotated[tuple[int, int], CHANNELS] = (256, 128)
    """Channels of the two intermediate layers after upsampling for the decoder."""
    decoder_projected: Annotated[tuple[int, int], CHANNELS] = (32, 16)
    """Channels of these two layers after projection, as the decoder uses them."""
    classes: Annotated[int, Range(least=1, most=1_000_000)] = 256
    """Classes that are processed together. Fewer classes are padded with a learnt token. Of more classes, each image
    keeps those with the highest cosines; the others get the logit -100."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.width % self.heads:
            raise BadInput(f"aggregator.width {self.width} is no multiple of aggregator.heads {self.heads}")
        if any(channels < 16 or channels % 16 for channels in self.decoder):
            raise BadInput(f"aggregator.decoder is {self.decoder}; its norms need multiples of 16")
        before = (self.width, self.decoder[0])
        if any(own >= channels for own, channels in zip(self.decoder_projected, before, strict=True)):
            raise BadInput(
                f"aggregator.decoder_projected {self.decoder_projected} must be below {before}, the channels they join"
            )


@dataclass(frozen=True)
class CatSegConfig(DownstreamConfig):
    """CAT-Seg: open-vocabulary segmentation by aggregated costs, learnt from images with label maps."""

    kind: ClassVar[str] = "catseg"
    data: CatSegDataConfig = field(default_factory=CatSegDataConfig)
    """Images with label maps."""
    crop: Annotated[int, SIDE] = 384
    """Side in pixels of a training crop, and of a window in inference; windows slide over a canvas of 5/3 of that."""
    size: Annotated[int, Range(least=0, most=8192, advice="0: the crop's")] = 0
    """Side in pixels to which a crop or window is resized for the towers; 0: it is not resized."""
    layers: tuple[int, ...] = ()
    """Two blocks of the image tower, counted from 0, whose tokens guide the decoder. Empty: the blocks at one third and
    two thirds of the depth: 3 and 7 for B, 7 and 15 for L."""
    readout: str = ""
    """Dense readout that the costs are computed from. Empty: CAT-Seg's own if the tower has a class token, else the
    first dense readout for the tower's pooling."""
    templates: str = "catseg"
    """Prompt set for class names; each prompt is a channel of the costs. `catseg` has one: a photo in the scene."""
    aggregator: AggregatorConfig = field(default_factory=AggregatorConfig)
    """The network."""
    tower_lr: Annotated[float, Range(least=0, most=1)] = 0.01
    """Fraction of the learning rate for the trained weights of the towers: queries and values, or low-rank changes with
    train.optim.lora. Towers in train.optim.freeze are frozen."""
    train: TrainConfig = field(default=TRAIN)
    """Optimisation."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.layers) not in (0, 2):
            raise BadInput(f"layers names two blocks of the image tower, one for each stage; got {len(self.layers)}")


IDLE = (
    Idle(
        "train.passes train.held_out train.optim.layer_decay train.optim.decay",
        lambda _: True,
        "CAT-Seg does not use it",
    ),
    *TRAINING,
    Idle("tower_lr", lambda c: {"image", "text"} <= set(c.train.optim.freeze), "the towers are not trained"),
    ALONG,
)
