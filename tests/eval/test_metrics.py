"""Metrics against loops, torchmetrics, worked cases and simulations of chance."""

from __future__ import annotations

import doctest
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier

from silc.errors import BadInput
from silc.eval import asked, metrics, pictures, prompts, score_table, sliding, tables, tasks


@pytest.mark.parametrize("module", [asked, metrics, pictures, prompts, score_table, sliding, tables, tasks])
def test_worked_examples_of_the_docstrings(module):
    outcome = doctest.testmod(module, extraglobs={"torch": torch, "Path": Path})
    assert outcome.failed == 0
    assert outcome.attempted > 0


def accuracy(scores: torch.Tensor, labels: torch.Tensor) -> dict[str, float]:
    ratios = metrics.accuracy_ratios(metrics.class_ranks(scores, labels), labels, scores.shape[1])
    return {name: ratio.score() for name, ratio in ratios.items()}


def recall(
    images: torch.Tensor, texts: torch.Tensor, owner: torch.Tensor, block: int = metrics.BLOCK
) -> dict[str, float]:
    ratios = metrics.recall_ratios(*metrics.retrieval_ranks(images, texts, owner, block=block), owner)
    return {name: ratio.score() for name, ratio in ratios.items()}


# --- classification


def test_accuracy_equals_topk_without_ties():
    generator = torch.Generator().manual_seed(0)
    scores, labels = torch.randn(200, 12, generator=generator), torch.randint(0, 12, (200,), generator=generator)
    got = accuracy(scores, labels)
    for k in (1, 5):
        hits = (scores.topk(k).indices == labels[:, None]).any(1)
        assert got[f"acc{k}"] == pytest.approx(hits.double().mean().item())
    recalls = [(scores.argmax(1) == labels)[labels == c].double().mean().item() for c in labels.unique()]
    assert got["mean_per_class_recall"] == pytest.approx(sum(recalls) / len(recalls))


def test_acc5_is_left_out_below_five_classes():
    assert "acc5" not in accuracy(torch.eye(4), torch.arange(4))
    assert "acc5" not in metrics.accuracy_chance(torch.arange(4), 4)
    assert accuracy(torch.eye(5), torch.arange(5))["acc5"] == 1


def test_a_model_that_gives_equal_scores_is_at_chance():
    labels = torch.arange(10).repeat(7)
    assert accuracy(torch.zeros(70, 10), labels) == metrics.accuracy_chance(labels, 10)


def test_a_model_that_gives_nan_ranks_last():
    assert accuracy(torch.full((3, 6), torch.nan), torch.tensor([0, 1, 2])) == {
        "acc1": 0,
        "acc5": 0,
        "mean_per_class_recall": 0,
    }


def test_best_constant_class_is_said_where_it_beats_chance():
    assert metrics.accuracy_chance(torch.tensor([0, 0, 0, 1]), 2)["best_constant_acc1"] == 0.75
    assert "best_constant_acc1" not in metrics.accuracy_chance(torch.tensor([0, 1]), 2)


# --- retrieval: distances of 4 images to 8 texts, two texts an image, as in big_vision's image_text_retrieval_test.py

OWNER = torch.tensor([0, 0, 1, 1, 2, 2, 3, 3])
ALL_RIGHT = torch.tensor(
    [
        [0.0, 0.1, 0.5, 0.6, 0.7, 0.8, 0.9, 0.3],
        [0.4, 0.5, 0.1, 0.0, 0.3, 0.7, 0.6, 0.9],
        [0.8, 0.4, 0.6, 0.5, 0.0, 0.2, 0.3, 0.7],
        [0.9, 0.7, 0.3, 0.8, 0.6, 0.5, 0.1, 0.0],
    ]
)


def hit_rates(ranks: torch.Tensor) -> list[float]:
    return [(ranks < k).double().mean().item() for k in (1, 5, 10)]


def image_to_text(distances: torch.Tensor) -> list[float]:
    return hit_rates(metrics.best_ranks(-distances, torch.arange(4), OWNER))


def text_to_image(distances: torch.Tensor) -> list[float]:
    return hit_rates(metrics.best_ranks(-distances.T, OWNER, torch.arange(4)))


def test_retrieval_when_every_pair_is_nearest():
    assert image_to_text(ALL_RIGHT) == [1, 1, 1]
    assert text_to_image(ALL_RIGHT) == [1, 1, 1]


def test_text_retrieval_counts_an_image_once_whichever_of_its_texts_is_found():
    distances = ALL_RIGHT.clone()
    distances[0, :2] = 1.0  # six foreign texts are nearer: not even in the top 5
    distances[2, 5] = 0.95  # one of two texts lost, the other still nearest
    distances[3, 6:] = 0.55  # 0.3 and 0.5 are nearer
    assert image_to_text(distances) == [0.5, 0.75, 1]


def test_image_retrieval_counts_every_text():
    distances = ALL_RIGHT.clone()
    distances[0, :2] = 1.0  # texts 0 and 1
    distances[2, 5] = 1.0  # text 5
    distances[3, 6:] = 1.0  # texts 6 and 7
    assert text_to_image(distances) == [0.375, 1, 1]


@pytest.mark.parametrize("block", [1, 50, 10**9])
def test_recall_equals_sorting_everything_whatever_the_block(block):
    generator = torch.Generator().manual_seed(1)
    owner = torch.arange(30).repeat_interleave(torch.arange(30) % 4 + 1)
    images, texts = torch.randn(30, 6, generator=generator), torch.randn(len(owner), 6, generator=generator)
    texts = texts + 0.8 * images[owner]
    got = recall(images, texts, owner, block=block)
    scores = images.double() @ texts.double().T
    for k in (1, 5, 10):
        images_of_text = scores.T.argsort(descending=True)[:, :k]
        texts_of_image = owner[scores.argsort(descending=True)[:, :k]]
        want = (images_of_text == owner[:, None]).any(1).double().mean().item()
        assert got[f"image_retrieval_recall@{k}"] == pytest.approx(want)
        want = (texts_of_image == torch.arange(30)[:, None]).any(1).double().mean().item()
        assert got[f"text_retrieval_recall@{k}"] == pytest.approx(want)


def test_a_collapsed_model_retrieves_at_chance():
    owner = torch.arange(40)
    got = recall(torch.ones(40, 3), torch.ones(40, 3), owner)
    assert got == pytest.approx(metrics.retrieval_chance([1] * 40))


def test_retrieval_chance_equals_simulation():
    captions = [1, 2, 5, 3] * 5
    owner, generator = torch.arange(20).repeat_interleave(torch.tensor(captions)), torch.Generator().manual_seed(2)
    totals = dict.fromkeys(metrics.retrieval_chance(captions), 0.0)
    rounds = 300
    for _ in range(rounds):
        scores = torch.rand(20, len(owner), generator=generator)
        asked_by_image = metrics.best_ranks(scores, torch.arange(20), owner)
        asked_by_text = metrics.best_ranks(scores.T, owner, torch.arange(20))
        for k in metrics.RECALL_AT:
            totals[f"text_retrieval_recall@{k}"] += (asked_by_image < k).double().mean().item() / rounds
            totals[f"image_retrieval_recall@{k}"] += (asked_by_text < k).double().mean().item() / rounds
    assert totals == pytest.approx(metrics.retrieval_chance(captions), abs=0.02)


def test_retrieval_chance_is_certain_when_k_reaches_everything():
    assert metrics.retrieval_chance([2, 1])["text_retrieval_recall@5"] == 1
    assert metrics.retrieval_chance([2, 1])["image_retrieval_recall@5"] == 1


# --- segmentation


def random_labels(num_classes: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    truth = torch.randint(0, num_classes, (3, 20, 30), generator=generator)
    prediction = torch.where(
        torch.rand(truth.shape, generator=generator) < 0.4,
        truth,
        torch.randint(0, num_classes, truth.shape, generator=generator),
    )
    truth[torch.rand(truth.shape, generator=generator) < 0.1] = 255
    return truth, prediction


def summed(truth: torch.Tensor, prediction: torch.Tensor, num_classes: int) -> torch.Tensor:
    return sum(metrics.confusion(t, p, num_classes) for t, p in zip(truth, prediction, strict=True))


@pytest.mark.parametrize("missing_from_truth", [(), (2,), (2, 5)])
def test_miou_equals_torchmetrics(missing_from_truth):
    from torchmetrics.classification import MulticlassJaccardIndex

    truth, prediction = random_labels(7, seed=3)
    for absent in missing_from_truth:
        truth[truth == absent] = 255
    want = MulticlassJaccardIndex(7, average="macro", ignore_index=255)(prediction, truth)
    got = metrics.segmentation_scores(summed(truth, prediction, 7))
    assert got["miou"] == pytest.approx(want.item(), abs=1e-7)
    kept = truth != 255
    assert got["pixel_acc"] == pytest.approx((truth == prediction)[kept].double().mean().item())


def test_absent_classes_count_zero_in_mmseg_and_not_at_all_in_detectron2():
    truth = torch.tensor([0, 0, 0, 1, 1, 255])
    prediction = torch.tensor([0, 0, 2, 1, 0, 2])  # class 2 is predicted only, class 3 is nowhere
    counts = metrics.confusion(truth, prediction, 4)
    assert metrics.segmentation_scores(counts)["miou"] == pytest.approx((2 / 4 + 1 / 2 + 0) / 3)
    assert metrics.segmentation_scores(counts, "detectron2")["miou"] == pytest.approx((2 / 4 + 1 / 2) / 2)


def test_random_labels_in_detectron2_convention_equal_the_mean_over_present_classes():
    from torchmetrics.classification import MulticlassJaccardIndex

    truth, prediction = random_labels(7, seed=4)
    truth[truth == 2] = 255
    counts = summed(truth, prediction, 7)
    per_class = MulticlassJaccardIndex(7, average="none", ignore_index=255)(prediction, truth)
    want = per_class[[c for c in range(7) if c != 2]].mean().item()
    assert metrics.segmentation_scores(counts, "detectron2")["miou"] == pytest.approx(want, abs=1e-6)


@pytest.mark.parametrize("absent", ["mmseg", "detectron2"])
def test_segmentation_chance_equals_simulation(absent):
    pixels, generator = torch.tensor([50_000, 20_000, 3_000, 0, 400]), torch.Generator().manual_seed(5)
    truth = torch.arange(5).repeat_interleave(pixels)
    guesses = torch.randint(0, 5, truth.shape, generator=generator)
    want = metrics.segmentation_scores(metrics.confusion(truth, guesses, 5), absent)
    chance = metrics.segmentation_chance(pixels, absent)
    assert {name: chance[name] for name in want} == pytest.approx(want, abs=2e-3)
    constant = [
        metrics.segmentation_scores(metrics.confusion(truth, torch.full_like(truth, c), 5), absent) for c in range(5)
    ]
    assert chance["best_constant_miou"] == pytest.approx(max(score["miou"] for score in constant))
    assert chance["best_constant_pixel_acc"] == pytest.approx(max(score["pixel_acc"] for score in constant))


def test_segmentation_chance_is_the_formula():
    pixels = [30, 10, 60]
    terms = [(n / 3) / (n + 100 / 3 - n / 3) for n in pixels]
    assert metrics.segmentation_chance(torch.tensor(pixels))["miou"] == pytest.approx(sum(terms) / 3)


def clouds(count: int, seed: int, classes: int = 4, width: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    """Overlapping clouds of points of any length, one a class."""
    draw = torch.Generator().manual_seed(seed)
    centres = torch.randn(classes, width, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    labels = torch.randint(classes, (count,), generator=draw)
    points = centres[labels] + 1.2 * torch.randn(count, width, generator=draw, dtype=torch.float64)
    return points * (0.1 + 5 * torch.rand(count, 1, generator=draw, dtype=torch.float64)), labels


@pytest.mark.parametrize(("k", "temperature"), [(20, 0.07), (1, 0.07), (5, 1.0), (150, 0.2)])
def test_knn_is_scikit_learns(k: int, temperature: float) -> None:
    train, labels = clouds(150, 0)
    queries, truth = clouds(80, 1)
    peer = KNeighborsClassifier(k, metric="cosine", weights=lambda distance: np.exp((1 - distance) / temperature))
    peer.fit(train.numpy(), labels.numpy())
    found = metrics.neighbour_votes(train, labels, queries, 4, k=k, temperature=temperature)
    shares = (found / found.sum(dim=1, keepdim=True)).numpy()
    assert shares == pytest.approx(peer.predict_proba(queries.numpy()), abs=1e-9)
    right = (found.argmax(dim=1) == truth).float().mean()
    assert right == pytest.approx(peer.score(queries.numpy(), truth.numpy()))
    assert 0.3 < right < 1


def test_blocks_change_nothing_and_lengths_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    train, labels = clouds(50, 0)
    queries, _ = clouds(17, 1)
    whole = metrics.neighbour_votes(train, labels, queries, 4, k=7)
    assert torch.allclose(metrics.neighbour_votes(train * 3, labels, queries * 0.2, 4, k=7), whole)
    monkeypatch.setattr(metrics, "BLOCK", 100)
    assert torch.allclose(metrics.neighbour_votes(train, labels, queries, 4, k=7), whole)


def test_more_neighbours_than_images() -> None:
    train, labels = clouds(5, 0)
    with pytest.raises(BadInput, match="k is 20, but there are 5 training images; give at most that"):
        metrics.neighbour_votes(train, labels, train, 4)
