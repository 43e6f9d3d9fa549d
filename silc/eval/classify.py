"""Zero-shot classification: each image is given the class whose text feature is nearest (big_vision's protocol)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from silc.eval import metrics
from silc.eval.embed import Progress, image_features, silent
from silc.eval.prompts import canonicalize, templates, text_classifier
from silc.types import Evaluation, Record

if TYPE_CHECKING:
    from silc.eval.config import EvalConfig
    from silc.eval.datasets import ClassificationSet
    from silc.types import DualEncoder

DEFAULT_TEMPLATES = "clip80+1"


@dataclass
class ZeroShotClassification:
    """acc1, acc5 and mean_per_class_recall on one data set.

    Class names are cut at the first comma, names and templates canonicalised
    (big_vision `evaluators/proj/image_text/discriminative_classifier.py`).
    """

    name: str
    data: ClassificationSet
    config: EvalConfig
    progress: Progress = silent

    def __call__(self, model: DualEncoder) -> Evaluation:
        """Score a model."""
        template_set = self.config.templates or DEFAULT_TEMPLATES
        classifier = text_classifier(
            model,
            [canonicalize(name.split(",")[0]) for name in self.data.classes],
            [canonicalize(template, keep_braces=True) for template in templates(template_set)],
            batch_size=self.config.batch_size,
        )
        features = image_features(model, self.data.images, self.config.batch_size, self.progress)
        labels = torch.tensor(self.data.labels)
        protocol: dict[str, Any] = {
            "split": self.data.split,
            "num_images": len(labels),
            "num_classes": len(self.data.classes),
            "templates": template_set,
            "ensemble": "normalize, mean, normalize",
            "canonicalize": True,
            "image_size": model.preprocess.size,
            "resize": f"{model.preprocess.resize}, {model.preprocess.interpolation}",
        }
        return Evaluation(
            Record(
                dataset=self.data.name,
                task="zeroshot_classification",
                metrics=metrics.accuracy(features @ classifier.T, labels),
                chance=metrics.accuracy_chance(labels, len(self.data.classes)),
                protocol=protocol,
                model=model.name,
            )
        )
