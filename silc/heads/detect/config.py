"""What a detection head is, what it is trained on, and how. Imports no torch.

Defaults are those of OWL-ViT's CLIP B/16 (scenic's `configs/clip_b16.py`), but for image size and text length, which
are a model's own. Other than there, logits begin at the probability 0.01, crops keep half of each object, no block is
dropped at random, and gradients are clipped over the batch, not each image's.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal

from silc.config import DownstreamConfig
from silc.errors import BadInput
from silc.given import ALONG, TRAINING, Idle
from silc.settings import NATURAL, SHARE, Range, Settings
from silc.training.config import OptimConfig, TrainConfig

WEIGHT = Range(least=0, most=1000)
OPTIM = OptimConfig(
    lr=5e-5, betas=(0.9, 0.999), weight_decay=0.0, schedule="cosine", warmup="1k steps", cooldown="0 steps"
)
TRAIN = TrainConfig("140k steps", 256, optim=OPTIM, precision="auto", save_every="5k steps")


@dataclass(frozen=True)
class BoxDataConfig(Settings):
    """Images with boxes."""

    section: ClassVar[str] = "data"
    train: str = ""
    """A file in COCO's or LVIS's form, a folder with annotations/instances_train.json, or one of YOLO's or VOC's."""
    images: str = ""
    """Folder of the images that such a file names; empty: where COCO's archives have it, beside the annotations."""
    mosaics: tuple[float, ...] = (0.4, 0.3, 0.3)
    """How often one image fills a picture, 2 x 2 do, 3 x 3 do, and so on: shares of the pictures."""
    crops: Annotated[float, Range(above=0, most=1, advice="1: whole images")] = 0.33
    """Least share of an image's area that is cut out at random; no object is cut below half. 1: images stay whole."""
    flip: bool = True
    """Turn half of the images left to right."""
    negatives: Annotated[int, NATURAL] = 50
    """How many names that are surely not in a picture, or in a part of a mosaic, it is asked, at most. Of LVIS's sets
    these are names that its images list."""
    templates: str = "clip80+1"
    """Prompts, of which one is drawn for each name and image."""
    forbidden: str = ""
    """Names that training never meets: a file with one a line, or `rare`, those that LVIS calls rare. Empty: none."""
    workers: Annotated[int, Range(least=0, most=1024)] = 4
    """Processes that read images; 0 reads in the main one."""
    exif_orientation: Literal["ignore", "apply"] = "apply"
    """Whether a photograph is turned as EXIF says that the camera was held."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.mosaics or min(self.mosaics) < 0 or abs(sum(self.mosaics) - 1) > 1e-6:
            raise BadInput(f"data.mosaics {self.mosaics} must be shares that sum to 1, e.g. 1.0 for single images")


@dataclass(frozen=True)
class LossConfig(Settings):
    """Weights of cost and loss."""

    section: ClassVar[str] = "loss"
    classes: Annotated[float, WEIGHT] = 1.0
    """Of the focal loss of the names."""
    l1: Annotated[float, WEIGHT] = 1.0
    """Of the distance of boxes."""
    giou: Annotated[float, WEIGHT] = 1.0
    """Of their generalised IoU."""
    alpha: Annotated[float, SHARE] = 0.3
    """Focal loss: share of what is there."""
    gamma: Annotated[float, Range(least=0, most=10)] = 2.0
    """Focal loss: power by which what is easy counts less."""


@dataclass(frozen=True)
class DetectConfig(DownstreamConfig):
    """OWL-ViT: open-vocabulary detection, learnt from images with boxes."""

    kind: ClassVar[str] = "detect"
    data: BoxDataConfig = field(default_factory=BoxDataConfig)
    """Images with boxes."""
    size: Annotated[int, Range(least=0, most=8192, advice="0: the model's own")] = 0
    """Side in pixels of the square that images are put into, a multiple of the patch (OWL-ViT: 768, OWLv2: 960)."""
    objectness: bool = False
    """OWLv2's head beside the others: whether a patch names anything at all. It does not teach the tower."""
    text_lr: Annotated[float, SHARE] = 0.04
    """Share of the learning rate for the text tower (OWL-ViT: 2e-6 of 5e-5). Towers of train.optim.freeze stay as they
    are; with both frozen the heads alone learn."""
    loss: LossConfig = field(default_factory=LossConfig)
    """Weights of cost and loss."""
    train: TrainConfig = field(default=TRAIN)
    """Optimisation."""


IDLE = (
    Idle("train.passes train.held_out train.optim.layer_decay train.optim.decay", lambda _: True, "detect has none"),
    *TRAINING,
    Idle("text_lr", lambda c: "text" in c.train.optim.freeze, "the text tower stays as it is"),
    ALONG,
)
