"""Settings of a probe. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal

from silc.settings import Range, Settings
from silc.training.config import OptimConfig, TrainConfig

MANY = Range(least=1, most=1_000_000)
OPTIM = OptimConfig(lr=1e-2, weight_decay=0.0, clip_norm=1e9, schedule="cosine", warmup="5%", cooldown="0 steps")
TRAIN = TrainConfig("2k steps", 1024, optim=OPTIM, precision="float32", log_every="10%", save_every="10%")
"""Default training: long enough for a convex loss to converge, without weight decay, as the penalty is in the loss."""


@dataclass(frozen=True)
class ProbeConfig(Settings):
    """Probe frozen features: k nearest neighbours, and linear layers trained on them, one run per task."""

    kind: ClassVar[str] = "probe"
    out: str = ""
    """Folder for scores.json, report.html and a run for each task that is trained."""
    init: str = ""
    """The model: a run, or anything else that `silc.load` takes."""
    weights: Literal["auto", "student", "teacher"] = "auto"
    """Which weights of a run; `auto`: the teacher if there is one."""
    resume: Literal["auto", "never"] = "never"
    """`auto` continues the runs in `out` from their newest checkpoints."""
    root: str = ""
    """A folder with data sets that have labelled training images, laid out as for `silc eval`."""
    tasks: str = "all"
    """Comma-separated task names or globs: '<set>-knn', '-linear', '-linear-seg'; 'all': all tasks found."""
    k: Annotated[int, MANY] = 20
    """Number of nearest training images that vote in k-NN (DINO: 20)."""
    temperature: Annotated[float, Range(least=0.001, most=100)] = 0.07
    """A neighbour's vote is exp(cosine / temperature) (DINO: 0.07)."""
    l2: Annotated[tuple[float, ...], Range(least=0, most=1000)] = (1.0, 1e-1, 1e-2, 1e-3, 1e-4, 1e-5)
    """Weights of the penalty |W|^2 / 2 beside the mean cross-entropy; the best on held-back training images is used.
    scikit-learn's C is 1 / (l2 N)."""
    held_back: Annotated[float, Range(above=0, below=1)] = 0.1
    """Share of the training images (in classification: of each class) that is held back to choose the penalty."""
    segmentation_batch: Annotated[int, MANY] = 16
    """Images per step over all ranks in segmentation, in place of train.batch_size."""
    exif_orientation: Literal["ignore", "apply"] = "apply"
    """Whether photographs are rotated by their EXIF orientation."""
    feature_batch: Annotated[int, MANY] = 64
    """Images per forward pass of the frozen model."""
    feature_cache_gb: Annotated[float, Range(least=0, most=1e6)] = 4.0
    """Limit for the memory of patch features, in GB; features of further images are computed again at each use."""
    train: TrainConfig = field(default=TRAIN)
    """Optimisation of the linear layers."""
