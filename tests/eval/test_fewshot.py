"""The closed-form classifier against scikit-learn, and the protocol around it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge

from silc.errors import BadInput
from silc.eval.config import EvalConfig
from silc.eval.datasets import ClassificationSet
from silc.eval.fewshot import FewShot, least_squares, shuffled_by_class


@pytest.mark.parametrize(("rows", "columns"), [(60, 12), (12, 60), (33, 32), (32, 32)])
def test_equals_ridge(rows, columns):
    """Both forms, more rows than columns and fewer; 33 rows are exactly as many as columns with the bias."""
    rng = np.random.default_rng(rows)
    x, labels = rng.normal(size=(rows, columns)) * rng.uniform(0.1, 9, columns) + 3, rng.integers(0, 5, rows)
    test = rng.normal(size=(40, columns))
    mean, std = x.mean(0), x.std(0) + 1e-5
    padded, padded_test = (np.pad((a - mean) / std, ((0, 0), (0, 1)), constant_values=100.0) for a in (x, test))
    ridge = Ridge(alpha=2**10, fit_intercept=False, solver="svd").fit(padded, 2.0 * np.eye(5)[labels] - 1)
    classifier = least_squares(torch.from_numpy(x), torch.from_numpy(labels), 5)
    np.testing.assert_allclose(classifier(torch.from_numpy(test)), ridge.predict(padded_test), rtol=0, atol=1e-10)


def test_shots_are_nested_and_drawn_as_big_vision_draws():
    labels = np.array([1, 0, 2, 0, 1, 2, 1, 0, 2, 0, 1, 2])
    for seed in range(3):
        rng = np.random.default_rng(seed)
        want = [rng.permutation(np.where(labels == label)[0]) for label in range(3)]
        got = shuffled_by_class(labels, 3, seed)
        assert all(np.array_equal(a, b) for a, b in zip(got, want, strict=True))
        assert all((labels[own] == label).all() for label, own in enumerate(got))
    assert any(
        not np.array_equal(a, b)
        for a, b in zip(shuffled_by_class(labels, 3, 0), shuffled_by_class(labels, 3, 1), strict=True)
    )


def sets(flat, per_class, classes=(3, 11, 20, 5, 30, 17)):
    labels = [label for label in range(len(classes)) for _ in range(per_class)]
    names = [f"w{word}" for word in classes]
    images = [flat(classes[label]) for label in labels]
    return (ClassificationSet("painted", split, names, images, labels) for split in ("train", "test"))


def test_features_that_tell_the_classes_are_always_right(oracle, flat):
    train, test = sets(flat, 6)
    record = FewShot("painted-fewshot", test, EvalConfig(batch_size=5, num_pictures=0), train=train)(oracle).record
    assert record.metrics == {"1shot_acc1": 1, "1shot_std": 0, "5shot_acc1": 1, "5shot_std": 0}  # 10 are not there
    assert record.protocol["shots"] == [1, 5]
    assert record.chance == {"1shot_acc1": 1 / 6, "5shot_acc1": 1 / 6}
    assert record.details["acc1_by_seed"] == {"1shot": [1, 1, 1], "5shot": [1, 1, 1]}


def test_shuffled_labels_score_chance(oracle, flat):
    train, test = sets(flat, 40)
    shuffled = np.random.default_rng(0).permutation(train.labels).tolist()
    train = ClassificationSet("painted", "train", train.classes, train.images, shuffled)
    oracle.encode_pooled = lambda images: torch.randn(len(images), 16)
    record = FewShot("painted-fewshot", test, EvalConfig(), train=train)(oracle).record
    for shots in (1, 5, 10):
        assert record.metrics[f"{shots}shot_acc1"] == pytest.approx(1 / 6, abs=0.08)  # three draws of 240


def test_too_few_images(flat):
    train, test = sets(flat, 2)
    with pytest.raises(BadInput, match=r"painted-fewshot: eval\.shots asks for 3 images of each class, the smallest"):
        FewShot("painted-fewshot", test, EvalConfig(shots=(3, 5)), train=train)
    with pytest.raises(BadInput, match=r"eval\.shots is \(\); needed a whole number"):
        EvalConfig(shots=())
