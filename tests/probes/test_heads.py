"""At convergence a linear classifier is scikit-learn's logistic regression; on patches it has torch's batch norm."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from torch import nn

from silc.distributed import World
from silc.probes.heads import Heads
from silc.training.schedules import Rate
from tests.eval.test_metrics import clouds

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


def test_patches_go_through_torchs_batch_norm_and_convolution() -> None:
    """Losses, gradients and what scores: of a BatchNorm2d, a 1x1 Conv2d and torch's upsampling."""
    torch.manual_seed(0)
    patches = 3 + 2 * torch.randn(2, 3, 4, 5, dtype=torch.float64)
    labels = torch.randint(3, (2, 12, 16))
    labels[0, :4] = 255
    begin = torch.stack([torch.zeros(5), torch.ones(5)]).double()
    heads = Heads((0.1, 0.01), 3, begin.clone(), World(), ignore=255)
    with torch.no_grad():
        for parameter in heads.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    shares = torch.tensor([[0.5, 0.5], [1.0, 0.0]], dtype=torch.float64)
    out = heads(patches, labels, shares)
    out.loss.backward()
    assert torch.equal(heads.running, begin)
    heads.after_step(out, Rate(0.0))
    for head, l2 in enumerate((0.1, 0.01)):
        norm, conv = nn.BatchNorm2d(5, affine=False).double(), nn.Conv2d(5, 3, 1).double()
        with torch.no_grad():
            conv.weight.copy_(heads.weight[head][:, :, None, None])
            conv.bias.copy_(heads.bias[head])
        logits = conv(norm(patches.movedim(-1, 1)))
        upsampled = F.interpolate(logits, (12, 16), mode="bilinear", align_corners=False)
        by_image = F.cross_entropy(upsampled, labels, ignore_index=255, reduction="none").flatten(1).mean(dim=1)
        ((by_image * shares[head]).sum() + l2 / 2 * conv.weight.square().sum()).backward()
        assert torch.allclose(heads.weight.grad[head], conv.weight.grad[:, :, 0, 0])
        assert torch.allclose(heads.bias.grad[head], conv.bias.grad)
        assert torch.allclose(heads.running, torch.stack([norm.running_mean, norm.running_var]))
        norm.eval()
        assert torch.allclose(heads.logits(head, patches), conv(norm(patches.movedim(-1, 1))))
