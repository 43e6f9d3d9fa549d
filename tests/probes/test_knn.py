"""k-NN is scikit-learn's with DINO's weights."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier

from silc.probes.knn import votes
from silc.types import BadInput


def clouds(count: int, seed: int, classes: int = 4, width: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    """Overlapping clouds of points of any length, one a class."""
    draw = torch.Generator().manual_seed(seed)
    centres = torch.randn(classes, width, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    labels = torch.randint(classes, (count,), generator=draw)
    points = centres[labels] + 1.2 * torch.randn(count, width, generator=draw, dtype=torch.float64)
    return points * (0.1 + 5 * torch.rand(count, 1, generator=draw, dtype=torch.float64)), labels


@pytest.mark.parametrize(("k", "temperature"), [(20, 0.07), (1, 0.07), (5, 1.0), (150, 0.2)])
def test_it_is_scikit_learns(k: int, temperature: float) -> None:
    train, labels = clouds(150, 0)
    queries, truth = clouds(80, 1)
    peer = KNeighborsClassifier(k, metric="cosine", weights=lambda distance: np.exp((1 - distance) / temperature))
    peer.fit(train.numpy(), labels.numpy())
    found = votes(train, labels, queries, 4, k=k, temperature=temperature)
    shares = (found / found.sum(dim=1, keepdim=True)).numpy()
    assert shares == pytest.approx(peer.predict_proba(queries.numpy()), abs=1e-9)
    right = (found.argmax(dim=1) == truth).float().mean()
    assert right == pytest.approx(peer.score(queries.numpy(), truth.numpy()))
    assert 0.3 < right < 1


def test_blocks_change_nothing_and_lengths_do_not_count() -> None:
    train, labels = clouds(50, 0)
    queries, _ = clouds(17, 1)
    whole = votes(train, labels, queries, 4, k=7)
    assert torch.allclose(votes(train, labels, queries, 4, k=7, block=100), whole)
    assert torch.allclose(votes(train * 3, labels, queries * 0.2, 4, k=7), whole)


def test_more_neighbours_than_images() -> None:
    train, labels = clouds(5, 0)
    with pytest.raises(BadInput, match="k is 20, but there are 5 training images; give at most that"):
        votes(train, labels, train, 4)
