"""Zero-shot classification: each image is given the class whose text feature is nearest.

By big_vision's protocol (`evaluators/proj/image_text/discriminative_classifier.py`) or CLIP's; see `protocols.py`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from silc.eval import metrics
from silc.eval.bootstrap import resampled
from silc.eval.class_features import text_classifier
from silc.eval.embed import ALONE, Progress, image_features, silent
from silc.eval.prompts import canonicalize, templates
from silc.eval.protocols import OWN_TEMPLATES, WHOLE_IMAGE
from silc.types import Evaluation, Record

if TYPE_CHECKING:
    from silc.distributed import World
    from silc.eval.config import EvalConfig
    from silc.eval.datasets import ClassificationSet
    from silc.preprocess import Preprocess
    from silc.types import DualEncoder


@dataclass
class ZeroShotClassification:
    """acc1, acc5 and mean_per_class_recall on one data set."""

    name: str
    data: ClassificationSet
    config: EvalConfig
    progress: Progress = silent
    world: World = ALONE

    @property
    def sets(self) -> list[ClassificationSet]:
        """The data set."""
        return [self.data]

    @property
    def drawn(self) -> tuple[int, bool]:
        """Number of pictures for the report, and whether they show photographs."""
        return 0, False

    def protocol(self, model: DualEncoder) -> dict[str, Any]:
        """Every choice that moves the number."""
        preprocess = self._preprocess(model)
        return {
            "protocol": self.config.classification,
            "split": self.data.split,
            "num_images": len(self.data.labels),
            "num_classes": len(self.data.classes),
            "templates": self._templates()[0],
            "ensemble": self.config.ensemble or "normalize, mean, normalize",
            "canonicalize": WHOLE_IMAGE[self.config.classification].canonicalize,
            "image_size": preprocess.size,
            "resize": f"{preprocess.resize}, {preprocess.interpolation}",
            "exif_orientation": self.config.exif_orientation,
        }

    def __call__(self, model: DualEncoder) -> Evaluation:
        """Score a model."""
        names, patterns = list(self.data.classes), self._templates()[1]
        if WHOLE_IMAGE[self.config.classification].canonicalize:
            names = [canonicalize(name.split(",")[0]) for name in names]
            patterns = [canonicalize(pattern, keep_braces=True) for pattern in patterns]
        classifier = text_classifier(
            model,
            names,
            patterns,
            self.config.ensemble or "normalize, mean, normalize",
            batch_size=self.config.batch_size,
            world=self.world,
        )
        features = image_features(
            model,
            self.data.images,
            self._preprocess(model),
            self.config.batch_size,
            self.progress,
            world=self.world,
        )
        labels = torch.tensor(self.data.labels)
        scores = features @ classifier.T
        counts = metrics.confusion(labels, scores.argmax(dim=1), len(names), ignore=-1)
        ratios = metrics.accuracy_ratios(metrics.class_ranks(scores, labels), labels, len(names))
        record = Record(
            dataset=self.data.name,
            task="zeroshot_classification",
            metrics={name: ratio.score() for name, ratio in ratios.items()},
            chance=metrics.accuracy_chance(labels, len(self.data.classes)),
            protocol=self.protocol(model),
            model=model.name,
            details={"most_confused": metrics.most_confused(counts, self.data.classes)},
        )
        return Evaluation(record, resampled=resampled(ratios))

    def _preprocess(self, model: DualEncoder) -> Preprocess:
        resize = WHOLE_IMAGE[self.config.classification].classification_resize
        interpolation = self.config.interpolation or model.preprocess.interpolation
        return replace(model.preprocess, resize=resize, interpolation=interpolation)

    def _templates(self) -> tuple[str, list[str]]:
        """The prompts and what they are called: asked for, the protocol's, the data set's, CLIP's for it."""
        asked = self.config.templates or WHOLE_IMAGE[self.config.classification].templates
        if not asked and self.data.templates:
            return f"the data set's {len(self.data.templates)}", list(self.data.templates)
        name = asked or OWN_TEMPLATES.get(self.data.name, "clip80")
        return name, templates(name)
