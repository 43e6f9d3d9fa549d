"""Zero-shot classification: each image is given the class whose text feature is nearest.

The protocol is big_vision's (`evaluators/proj/image_text/discriminative_classifier.py`) or CLIP's: see `protocols.py`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from silc.eval import metrics
from silc.eval.bootstrap import resampled
from silc.eval.datasets import ClassificationSet
from silc.eval.embed import text_classifier
from silc.eval.prompts import canonicalize, templates
from silc.eval.protocols import OWN_TEMPLATES
from silc.eval.whole_images import OnWholeImages
from silc.records import Evaluation, Record

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from silc.encoder import DualEncoder


class ZeroShotClassification(OnWholeImages[ClassificationSet]):
    """acc1, acc5 and mean_per_class_recall on one data set."""

    def protocol(self, model: DualEncoder) -> dict[str, Any]:
        """Every setting that affects the score."""
        return {
            "protocol": self.config.classification,
            "split": self.data.split,
            "num_images": len(self.data.labels),
            "num_classes": len(self.data.classes),
            "templates": self._templates()[0],
            "ensemble": self.config.ensemble or "normalize, mean, normalize",
            "canonicalize": self.rules.canonicalize,
            **self.entering(model),
        }

    def __call__(self, model: DualEncoder) -> Evaluation:
        """Score a model."""
        names, patterns = list(self.data.classes), self._templates()[1]
        if self.rules.canonicalize:
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
        features = self.features(model, self.data.images)
        scores = features @ classifier.T
        return classified("zeroshot_classification", self.data, scores, self.protocol(model), model.name)

    def _templates(self) -> tuple[str, list[str]]:
        """Name and list of the prompts: the user's, or the protocol's, or the data set's, or CLIP's for the set."""
        asked = self.config.templates or self.rules.templates
        if not asked and self.data.templates:
            return f"the data set's {len(self.data.templates)}", list(self.data.templates)
        name = asked or OWN_TEMPLATES.get(self.data.name, "clip80")
        return name, templates(name)


def classified(
    task: str, data: ClassificationSet, scores: Tensor, protocol: Mapping[str, Any], model: str
) -> Evaluation:
    """Evaluation from scores [N, C]: acc1, acc5, mean_per_class_recall and the most confused classes.

    The other arguments are those of a `Record`.
    """
    labels, classes = torch.tensor(data.labels), data.classes
    counts = metrics.confusion(labels, scores.argmax(dim=1), len(classes), ignore=-1)
    ratios = metrics.accuracy_ratios(metrics.class_ranks(scores, labels), labels, len(classes))
    record = Record(
        dataset=data.name,
        task=task,
        metrics={name: ratio.score() for name, ratio in ratios.items()},
        chance=metrics.accuracy_chance(labels, len(classes)),
        protocol=protocol,
        model=model,
        details={"most_confused": metrics.most_confused(counts, classes)},
    )
    return Evaluation(record, resampled=resampled(ratios))
