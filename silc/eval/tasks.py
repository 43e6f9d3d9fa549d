"""The table of tasks: all that commands, reports and tables know about a task. Imports no torch.

To add a task, add a row in `TASKS`, a file with its evaluator and, if it has settings, a torch-free file with their
dataclass. `<set>-<suffix>` is the name of a task on a data set.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from silc.records import Evaluator
    from silc.settings import Settings


@dataclass(frozen=True)
class TaskKind:
    """A kind of task. A task is a kind of task on one data set."""

    suffix: str
    title: str
    """Heading in the report."""
    data: str
    """The kind of data set, a name of `layouts.KINDS`."""
    headlines: Mapping[str, str]
    """Metrics that are plotted, compared in pairs and put beside the paper's, with their columns' titles."""
    evaluator: str = ""
    """`module:class`, imported when it is used; empty for tasks that `silc probe` scores."""
    reads: str = ""
    """Fields of `EvalConfig` that only this task, or only few tasks, read."""
    varies: str = ""
    """Fields of `EvalConfig` that may list several values, joined by commas; each combination is scored."""
    settings: type[Settings] | None = None
    """The task's own settings, with `section = "eval.NAME"`: they become section NAME of `EvalConfig`."""
    trains: bool = False
    """Whether it needs the set's training images."""
    only_tabled: str = ""
    """A headline that is neither plotted nor compared."""
    on_sheet: bool = False
    """Whether its pictures are also on the sheet of segmentations."""
    by_name: bool = False
    """Whether it is scored only if it is named: `all` leaves it out."""

    def load(self) -> Callable[..., Evaluator]:
        """The evaluator's class: (name, data set, EvalConfig, progress, world), and `train=` if it trains."""
        module, _, name = self.evaluator.partition(":")
        found: Callable[..., Evaluator] = getattr(importlib.import_module(module), name)
        return found

    def compares(self, metric: str) -> bool:
        """Whether a metric is plotted, and compared in pairs."""
        return metric in self.headlines and metric != self.only_tabled


TASKS = {
    "zeroshot_classification": TaskKind(
        "zs",
        "Zero-shot classification",
        "classification",
        {"acc1": "0-shot"},
        "silc.eval.classify:ZeroShotClassification",
        reads="classification templates ensemble",
    ),
    "fewshot_classification": TaskKind(
        "fewshot",
        "Few-shot classification",
        "classification",
        {"1shot_acc1": "1-shot", "5shot_acc1": "5-shot", "10shot_acc1": "10-shot"},
        "silc.eval.fewshot:FewShot",
        reads="shots",
        trains=True,
        only_tabled="5shot_acc1",
    ),
    "zeroshot_retrieval": TaskKind(
        "retrieval",
        "Image-text retrieval",
        "retrieval",
        {"text_retrieval_recall@1": "I2T R@1", "image_retrieval_recall@1": "T2I R@1"},
        "silc.eval.retrieval:Retrieval",
        reads="classification max_captions",
    ),
    "zeroshot_segmentation": TaskKind(
        "zs-seg",
        "Zero-shot segmentation",
        "segmentation",
        {"miou": "mIoU"},
        "silc.eval.segment:ZeroShotSegmentation",
        reads="segmentation templates ensemble window names background_names readout decoder second neighbours "
        "absent_classes refine pamr mix background confidence",
        varies="segmentation decoder names",
        on_sheet=True,
    ),
    "open_vocabulary_segmentation": TaskKind(
        "ov-seg",
        "Open-vocabulary segmentation by a trained head",
        "segmentation",
        {"miou": "ov mIoU"},
        "silc.eval.segment:OpenVocabularySegmentation",
        reads="segmentation templates ensemble window names readout decoder second neighbours refine pamr mix "
        "background confidence",
        varies="segmentation decoder names",
        on_sheet=True,
        by_name=True,
    ),
    "open_vocabulary_detection": TaskKind(
        "detection",
        "Open-vocabulary detection",
        "detection",
        {"ap": "AP", "ap50": "AP50", "apr": "APr"},
        "silc.eval.detection:OpenVocabularyDetection",
        reads="templates",
        by_name=True,
    ),
    "captioning": TaskKind(
        "caption",
        "Captions by a trained decoder",
        "retrieval",
        {"cider": "CIDEr", "bleu_4": "BLEU-4"},
        "silc.eval.captioning:Captioning",
        by_name=True,
    ),
    "question_answering": TaskKind(
        "vqa",
        "Questions, answered by a trained decoder",
        "vqa",
        {"accuracy": "VQA"},
        "silc.eval.answering:QuestionAnswering",
        by_name=True,
    ),
    "knn_classification": TaskKind("knn", "k nearest neighbours", "classification", {"acc1": "k-NN"}, trains=True),
    "linear_probe_classification": TaskKind(
        "linear", "Linear classification of frozen features", "classification", {"acc1": "linear"}, trains=True
    ),
    "linear_probe_segmentation": TaskKind(
        "linear-seg", "Linear segmentation of frozen patches", "segmentation", {"miou": "linear mIoU"}, trains=True
    ),
}
"""Every kind of task by the `task` of a record, in the order in which a data set's tasks are listed and scored."""
SHORT = {
    "image_retrieval_recall": "T2I R",
    "text_retrieval_recall": "I2T R",
    "mean_per_class_recall": "class mean",
}
"""Short forms for parts of metrics' names, where there is little room."""


def task_name(kind: str, dataset: str) -> str:
    """Name of the task on a data set; `kind` is the `task` of a record.

    >>> task_name("zeroshot_segmentation", "voc2012")
    'voc2012-zs-seg'
    """
    return f"{dataset}-{TASKS[kind].suffix}"


def brief(metric: str) -> str:
    """A metric's usual short name, which leaves room for the numbers.

    >>> brief("image_retrieval_recall@1")
    'T2I R@1'
    """
    for name, short in SHORT.items():
        metric = metric.replace(name, short)
    return metric


def section_of(settings: type[Settings]) -> str:
    """The name of the section of `EvalConfig` that holds a task's own settings."""
    return settings.section.removeprefix("eval.")


def readers() -> dict[str, list[str]]:
    """Settings (fields or globs of fields) that only some tasks read, with the suffixes of these tasks."""
    found: dict[str, list[str]] = {}
    for kind in TASKS.values():
        own = f" {section_of(kind.settings)}.*" if kind.settings else ""
        for setting in (kind.reads + own).split():
            found.setdefault(setting, []).append(kind.suffix)
    return found
