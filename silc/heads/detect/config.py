"""Settings of a detection head: its shape, its data and its training. Imports no torch.

Defaults are those of OWL-ViT's CLIP B/16 (scenic's `configs/clip_b16.py`), except image size and text length, which are
the model's own. Unlike there, logits begin at the probability 0.01, crops keep half of each object, there is no
stochastic depth, and gradients are clipped for the whole batch, not for each image.
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
    """A file in COCO's or LVIS's format, a folder with annotations/instances_train.json, or a YOLO or VOC folder."""
    images: str = ""
    """Folder of the images that such a file names. Empty: beside the annotations, as in COCO's archives."""
    mosaics: tuple[float, ...] = (0.4, 0.3, 0.3)
    """Fractions of the pictures that show one image, 2 x 2 images, 3 x 3 images, and so on."""
    crops: Annotated[float, Range(above=0, most=1, advice="1: whole images")] = 0.33
    """Smallest part of an image's area in a random crop; objects are cut by half at most, or left out. 1: no crops."""
    flip: bool = True
    """Flip half of the images left to right."""
    negatives: Annotated[int, NATURAL] = 50
    """Maximum number of negative names for a picture: names certainly absent from it, or from a part of a mosaic. In
    LVIS each image has its own list of such names."""
    templates: str = "clip80+1"
    """Prompt set; one prompt is drawn for each name and image."""
    forbidden: str = ""
    """Names left out of training: a file with one name per line, or `rare` for LVIS's rare ones. Empty: none."""
    workers: Annotated[int, Range(least=0, most=1024)] = 4
    """Processes that read images; 0 reads in the main one."""
    exif_orientation: Literal["ignore", "apply"] = "apply"
    """Whether a photograph is rotated according to its EXIF orientation."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.mosaics or min(self.mosaics) < 0 or abs(sum(self.mosaics) - 1) > 1e-6:
            raise BadInput(f"data.mosaics {self.mosaics} must be shares that sum to 1, e.g. 1.0 for single images")


@dataclass(frozen=True)
class LossConfig(Settings):
    """Weights of the matching cost and of the loss."""

    section: ClassVar[str] = "loss"
    classes: Annotated[float, WEIGHT] = 1.0
    """Weight of the focal loss of the names."""
    l1: Annotated[float, WEIGHT] = 1.0
    """Weight of the L1 distance of boxes."""
    giou: Annotated[float, WEIGHT] = 1.0
    """Weight of the generalised IoU of boxes."""
    alpha: Annotated[float, SHARE] = 0.3
    """Focal loss: weight of positives; negatives have 1 - alpha."""
    gamma: Annotated[float, Range(least=0, most=10)] = 2.0
    """Focal loss: exponent that lowers the weight of easy examples."""


@dataclass(frozen=True)
class DetectConfig(DownstreamConfig):
    """OWL-ViT: open-vocabulary detection, learnt from images with boxes."""

    kind: ClassVar[str] = "detect"
    data: BoxDataConfig = field(default_factory=BoxDataConfig)
    """Images with boxes."""
    size: Annotated[int, Range(least=0, most=8192, advice="0: the model's own")] = 0
    """Side in pixels of the square that images are put into, a multiple of the patch (OWL-ViT: 768, OWLv2: 960)."""
    objectness: bool = False
    """Add OWLv2's objectness head: whether a patch shows any object. It sends no gradient into the tower."""
    text_lr: Annotated[float, SHARE] = 0.04
    """Fraction of the learning rate for the text tower (OWL-ViT: 2e-6 of 5e-5). Towers in train.optim.freeze are
    frozen; with both frozen only the heads learn."""
    loss: LossConfig = field(default_factory=LossConfig)
    """Weights of the matching cost and of the loss."""
    train: TrainConfig = field(default=TRAIN)
    """Optimisation."""


IDLE = (
    Idle(
        "train.passes train.held_out train.optim.layer_decay train.optim.decay",
        lambda _: True,
        "detect does not use it",
    ),
    *TRAINING,
    Idle("text_lr", lambda c: "text" in c.train.optim.freeze, "the text tower is not trained"),
    ALONG,
)
