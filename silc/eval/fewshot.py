"""Few-shot classification: a linear classifier by regularised least squares on a handful of images per class.

The algorithm is big_vision's (`evaluators/fewshot_lsr.py`, as in the ViT paper), in float64: whiten with the shots'
own mean and deviation, append a large constant as bias, regress to -1 and +1 with a fixed l2 of 2^10, take the best
class. Shots are drawn per class by a seeded permutation, so the one shot is among the five and the five among the
ten. big_vision draws from TFDS's order of images, we draw from the sorted file names. The protocol is the same but
the draws differ, so the mean and the standard deviation over three seeds are reported.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from silc.errors import BadInput
from silc.eval import metrics
from silc.eval.bootstrap import Ratios, resampled
from silc.eval.datasets import ClassificationSet, Lazy
from silc.eval.whole_images import OnWholeImages
from silc.records import Evaluation, Record

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from silc.encoder import DualEncoder

SEEDS = (0, 1, 2)
L2 = 2.0**10
BIAS = 100.0
"""The appended constant: so large that the bias is hardly regularised."""


@dataclass
class FewShot(OnWholeImages[ClassificationSet]):
    """Accuracy on one data set: `<k>shot_acc1` is the mean over the seeds, `<k>shot_std` the standard deviation."""

    entry = "few-shot"
    train: ClassificationSet = field(kw_only=True)
    """The set that the shots are drawn from."""

    def __post_init__(self) -> None:
        smallest = min(np.bincount(self.train.labels, minlength=len(self.train.classes)))
        self.shots = [shots for shots in sorted(self.config.shots) if shots <= smallest]
        if not self.shots:
            raise BadInput(
                f"{self.name}: eval.shots asks for {min(self.config.shots)} images of each class, the smallest class "
                f"of {self.train.split} has {smallest}; ask for fewer, add images or leave the task out"
            )

    @property
    def sets(self) -> list[ClassificationSet]:
        """The set that shots are drawn from, and the set that is classified."""
        return [self.train, self.data]

    def protocol(self, model: DualEncoder) -> dict[str, Any]:
        """Every setting that affects the score."""
        return {
            "method": "big_vision fewshot_lsr",
            "split": f"{self.train.split} -> {self.data.split}",
            "num_images": len(self.data.labels),
            "num_classes": len(self.data.classes),
            "shots": self.shots,
            "seeds": list(SEEDS),
            "l2": L2,
            "bias": BIAS,
            "features": "pooled, before projection",
            "order": "of the files",
            **self.entering(model),
        }

    def __call__(self, model: DualEncoder) -> Evaluation:
        """Score a model; only images that are drawn are embedded."""
        classes = len(self.data.classes)
        labels = np.asarray(self.train.labels)
        draws = {seed: shuffled_by_class(labels, classes, seed) for seed in SEEDS}
        most = max(self.shots)
        used = np.unique([index for draw in draws.values() for own in draw for index in own[:most]])
        row = {int(index): place for place, index in enumerate(used)}
        shots_drawn = Lazy([int(index) for index in used], self.train.images.__getitem__)
        shot_features = self.features(model, shots_drawn, pooled=True)
        test_features = self.features(model, self.data.images, pooled=True).double()
        truth = torch.tensor(self.data.labels)
        scores: dict[int, list[float]] = {shots: [] for shots in self.shots}
        right = {shots: torch.zeros(len(truth)) for shots in self.shots}  # by image: share of right draws
        for shots in self.shots:
            for draw in draws.values():
                drawn = np.concatenate([own[:shots] for own in draw])
                features = shot_features[[row[int(index)] for index in drawn]]
                classifier = least_squares(features, torch.from_numpy(labels[drawn]), classes)
                first = metrics.class_ranks(classifier(test_features), truth) < 1
                scores[shots].append(first.double().mean().item())
                right[shots] += first / len(draws)
        found: dict[str, float] = {}
        for shots, each in scores.items():
            found |= {f"{shots}shot_acc1": float(np.mean(each)), f"{shots}shot_std": float(np.std(each, ddof=1))}
        record = Record(
            dataset=self.data.name,
            task="fewshot_classification",
            metrics=found,
            chance={f"{shots}shot_acc1": 1 / classes for shots in self.shots},
            protocol=self.protocol(model),
            model=model.name,
            details={"acc1_by_seed": {f"{shots}shot": each for shots, each in scores.items()}},
        )
        ratios = {f"{shots}shot_acc1": Ratios.of_images(each) for shots, each in right.items()}
        return Evaluation(record, resampled=resampled(ratios))


def shuffled_by_class(labels: NDArray[np.int64], num_classes: int, seed: int) -> list[NDArray[np.int64]]:
    """The indices of each class in a random order, as big_vision draws it; the first k of each are the k shots."""
    rng = np.random.default_rng(seed)
    return [rng.permutation(np.where(labels == label)[0]) for label in range(num_classes)]


class LinearClassifier(NamedTuple):
    """A linear classifier of whitened features with a constant appended."""

    mean: Tensor  # [1, D]
    std: Tensor  # [1, D]
    weights: Tensor  # [D + 1, C]

    def __call__(self, features: Tensor) -> Tensor:
        """Scores [N, C] of features [N, D]."""
        scores: Tensor = _with_bias((features - self.mean) / self.std) @ self.weights
        return scores


def least_squares(features: Tensor, labels: Tensor, num_classes: int, l2: float = L2) -> LinearClassifier:
    """Fit (X'X + l2)^-1 X'Y or, with fewer rows than columns, X'(XX' + l2)^-1 Y: equal, with a smaller matrix.

    Args:
        features: [N, D].
        labels: int64 [N]; Y is +1 for the class and -1 elsewhere.
    """
    features = features.double()
    mean = features.mean(dim=0, keepdim=True)
    std = features.std(dim=0, keepdim=True, correction=0) + 1e-5
    x = _with_bias((features - mean) / std)  # [N, D + 1]
    y = 2 * F.one_hot(labels, num_classes).double() - 1  # [N, C]
    weights = _inverse(x.T @ x, l2, x.T @ y) if len(x) >= x.shape[1] else x.T @ _inverse(x @ x.T, l2, y)
    return LinearClassifier(mean, std, weights)


def _inverse(gram: Tensor, l2: float, right: Tensor) -> Tensor:
    """(gram + l2)^-1 @ right, by the eigenvectors of a symmetric matrix."""
    values, vectors = torch.linalg.eigh(gram)
    inverse: Tensor = vectors @ ((vectors.T @ right) / (values + l2)[:, None])
    return inverse


def _with_bias(x: Tensor) -> Tensor:
    return F.pad(x, (0, 1), value=BIAS)
