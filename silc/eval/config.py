"""What is evaluated, and by which rules."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from silc.types import BadInput


@dataclass(frozen=True)
class EvalConfig:
    """Tasks and protocol. Whatever moves a number is written into its record."""

    root: str = ""
    """A folder with classification/, retrieval/ and segmentation/ inside, each with one folder per data set."""
    tasks: str = "all"
    """Comma-separated task names or globs: '<set>-zs', '<set>-retrieval', '<set>-zs-seg'; 'all' is what is found."""
    weights: Literal["student", "teacher", "both"] = "both"
    """Which weights are scored; a model without a teacher is scored once."""
    templates: str = ""
    """Prompts: clip80+1, tcl9 or plain. Empty: clip80+1 (big_vision) in classification, tcl9 (TCL) in segmentation."""
    readout: str = ""
    """Dense readout for segmentation; empty takes the default of the model's pooling."""
    absent_classes: Literal["mmseg", "detectron2"] = "mmseg"
    """Classes predicted but absent from the truth: `mmseg` counts them as IoU 0, `detectron2` leaves them out."""
    batch_size: int = 64
    """Images, windows or texts per forward pass."""
    num_pictures: int = 6
    """Example pictures per task in the report."""

    def __post_init__(self) -> None:
        if self.batch_size < 1 or self.num_pictures < 0:
            raise BadInput("eval.batch_size must be >= 1, eval.num_pictures >= 0")
