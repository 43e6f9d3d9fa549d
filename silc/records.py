"""Results of an evaluation, records and pictures, and the protocol of an evaluator. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from silc.encoder import DualEncoder


COSTS = {"examples_seen": ("examples seen", "{:,.0f}"), "train_flops": ("training FLOPs", "{:.2e}")}
"""What weights cost: the field of a record, its label and its format."""


@dataclass(frozen=True)
class Picture:
    """A picture with its caption. `group` names the section of the report it belongs to."""

    group: str
    caption: str
    image: Any  # PIL.Image.Image


@dataclass(frozen=True)
class Record:
    """One evaluated task: the fields of CLIP_benchmark's result files, plus fields that help to read the numbers."""

    dataset: str
    task: str  # a name of eval/tasks.py: TASKS
    metrics: Mapping[str, float]
    chance: Mapping[str, float]
    """The expectation of the same metrics for random answers; `best_constant_*` where constant answers do better."""
    protocol: Mapping[str, Any]
    """Every choice that changes the score: templates, resize rule, window, stride, readout, ..."""
    model: str = ""
    weights: str = ""  # student | teacher | pretrained
    pretrained: str = ""
    language: str = "en"
    examples_seen: int | None = None
    train_flops: float | None = None
    details: Mapping[str, Any] = field(default_factory=dict)
    """Details that explain the metrics, as JSON types: scores per seed or class, the most confused classes."""
    intervals: Mapping[str, Sequence[float]] = field(default_factory=dict)
    """The ends of the 95 % interval of each metric, by the bootstrap over images (silc/eval/bootstrap.py)."""


@dataclass(frozen=True)
class Evaluation:
    """A record, with its pictures and bootstrap scores for the report."""

    record: Record
    pictures: Sequence[Picture] = ()
    resampled: Mapping[str, Sequence[float]] = field(default_factory=dict)
    """Each metric's scores on the draws of the bootstrap; the drawn images are the same for every model."""


class Evaluator(Protocol):
    """One task on one data set."""

    @property
    def name(self) -> str: ...
    @property
    def sets(self) -> Sequence[Any]:
        """The data sets it reads."""
        ...

    @property
    def drawn(self) -> tuple[int, bool]:
        """Number of pictures it makes for the report, and whether they show photographs."""
        ...

    def protocol(self, model: DualEncoder) -> Mapping[str, Any]:
        """Every choice that changes the score, for this model."""
        ...

    def __call__(self, model: DualEncoder) -> Evaluation:
        """Score a model. Deterministic; leaves the model as it was."""
        ...
