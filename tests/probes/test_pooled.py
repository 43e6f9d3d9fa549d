"""k-NN is scikit-learn's with DINO's weights, a linear classifier its logistic regression."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler

from silc.errors import BadInput
from silc.probes.learner import Heads
from silc.probes.pooled import votes


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


L2 = (0.1, 0.01)


def trained(heads: Heads, steps: int, features: torch.Tensor, labels: torch.Tensor, shares: torch.Tensor) -> Heads:
    optimizer = torch.optim.AdamW(heads.parameters(), lr=0.05, betas=(0.9, 0.95), weight_decay=0)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        optimizer.zero_grad()
        heads(features[:, None, None], labels[:, None, None], shares).loss.backward()
        optimizer.step()
        schedule.step()
    return heads


def test_each_head_settles_where_scikit_learns_logistic_regression_does() -> None:
    features, labels = clouds(120, 0)
    statistics = torch.stack([features.mean(dim=0), features.var(dim=0, correction=0)])
    heads = trained(Heads(L2, 4, statistics), 400, features, labels, torch.full((2, 120), 1 / 120).double())
    x = StandardScaler().fit_transform(features.numpy())
    for head, l2 in enumerate(L2):
        peer = LogisticRegression(C=1 / (l2 * 120), tol=1e-10, max_iter=10_000).fit(x, labels.numpy())
        assert heads.weight[head].detach().numpy() == pytest.approx(peer.coef_, abs=1e-4)
        ours = heads.logits(head, features[:, None, None]).flatten(1).softmax(dim=1).numpy()
        assert ours == pytest.approx(peer.predict_proba(x), abs=1e-4)


def test_an_image_without_a_share_is_not_learnt_from() -> None:
    """Of two heads of one penalty the first learns from the first 90 images alone."""
    features, labels = clouds(120, 0)
    shares = torch.full((2, 120), 1 / 120, dtype=torch.float64)
    shares[0, :90], shares[0, 90:] = 1 / 90, 0
    statistics = torch.stack([features.mean(dim=0), features.var(dim=0, correction=0)])
    torch.manual_seed(0)
    heads = trained(Heads((0.01, 0.01), 4, statistics), 30, features, labels, shares)
    torch.manual_seed(0)
    alone = trained(Heads((0.01,), 4, statistics), 30, features[:90], labels[:90], torch.full((1, 90), 1 / 90).double())
    assert torch.allclose(heads.weight[0], alone.weight[0], atol=1e-6)
    assert not torch.allclose(heads.weight[1], alone.weight[0], atol=1e-3)
