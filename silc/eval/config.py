"""What is evaluated, and by which rules."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from silc.types import BadInput


@dataclass(frozen=True)
class EvalConfig:
    """Tasks and protocol. Whatever moves a number is written into its record."""

    root: str = ""
    """A folder with data sets in their official layouts, or in classification/, retrieval/ and segmentation/."""
    tasks: str = "all"
    """Comma-separated task names or globs: '<set>-zs', '-fewshot', '-retrieval', '-zs-seg'; 'all' is what is found."""
    weights: Literal["student", "teacher", "both"] = "both"
    """Which weights are scored; a model without a teacher is scored once."""
    classification: Literal["big_vision", "clip"] = "big_vision"
    """Classification and retrieval: big_vision's (81 templates, squashed) or CLIP's (own templates, aspect kept)."""
    segmentation: Literal["tcl", "tips", "dinov3"] = "tcl"
    """Sliding windows of TCL (448 px by 224), TIPS (448 by 336) or DINOv3 (384 by 192), the last two with softmax."""
    templates: str = ""
    """Prompts for every task: clip80+1, clip80, clip7, cifar18, tcl9, maskclip85 or plain. Empty: the protocol's."""
    ensemble: Literal["", "normalize, mean, normalize", "mean, normalize"] = ""
    """How the prompts of a class become one feature. Empty: the protocol's."""
    interpolation: Literal["", "bilinear", "bicubic", "tf_bilinear", "cv2_bilinear"] = ""
    """Filter that resizes images. Empty: the model's own, in segmentation the protocol's."""
    window: int = 0
    """Side of segmentation's windows. 0: the protocol's, or the training resolution where that is smaller."""
    readout: str = ""
    """Dense readout for segmentation; empty takes the default of the model's pooling."""
    absent_classes: Literal["mmseg", "detectron2"] = "mmseg"
    """Classes predicted but absent from the truth: `mmseg` counts them as IoU 0, `detectron2` leaves them out."""
    pamr: bool = False
    """Refine the class maps along the image's edges (TCL's PAMR). Not raw: the record says `refined`."""
    mix: str = ""
    """A second readout, mixed in as TCL mixes MaskCLIP (0.7 own + 0.3 other). The weights were tuned on labels."""
    background: float = 0.0
    """Score label 0 as background wherever no class reaches this (TCL: 0.5; 0.4 with PAMR). Tuned on labels; 0: off."""
    shots: tuple[int, ...] = (1, 5, 10)
    """Images per class in few-shot classification."""
    max_captions: int = 0
    """Captions per image in retrieval, the first ones; 0 keeps all (CLIP cuts to 5)."""
    batch_size: int = 64
    """Images, windows or texts per forward pass."""
    photographs: bool = True
    """Show photographs in the report; off draws label maps alone, for sets that may not be passed on."""
    num_pictures: int = 6
    """Example pictures per task in the report."""

    def __post_init__(self) -> None:
        if self.batch_size < 1 or self.num_pictures < 0:
            raise BadInput("eval.batch_size must be >= 1, eval.num_pictures >= 0")
        if not self.shots or min(self.shots) < 1:
            raise BadInput(f"eval.shots must be numbers of images, at least 1; got {self.shots}")
        if self.window < 0 or self.max_captions < 0 or not 0 <= self.background < 1:
            raise BadInput("eval.window and eval.max_captions must be >= 0, eval.background in [0, 1)")
