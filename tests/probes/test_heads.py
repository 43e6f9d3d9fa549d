"""Linear layers are scikit-learn's logistic regression, and torch's batch norm with a 1x1 convolution."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression
from torch import nn

from silc.probes.heads import LinearHeads, PatchHeads, pixel_loss
from silc.probes.learner import Probe
from silc.training.schedules import Rate
from tests.probes.test_knn import clouds

L2 = (0.1, 0.01)


def trained(heads: LinearHeads, steps: int, *batch: torch.Tensor) -> None:
    optimizer = torch.optim.AdamW(heads.parameters(), lr=0.05, betas=(0.9, 0.95), weight_decay=0)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        optimizer.zero_grad()
        heads(*batch).loss.backward()
        optimizer.step()
        schedule.step()


def test_each_head_settles_where_scikit_learns_logistic_regression_does() -> None:
    features, labels = clouds(120, 0)
    mean, std = features.mean(dim=0), features.std(dim=0, correction=0)
    heads = LinearHeads(L2, 4, mean, std)
    trained(heads, 400, features, labels, torch.full((2, 120), 1 / 120, dtype=torch.float64))
    x = ((features - mean) / std).numpy()
    for head, l2 in enumerate(L2):
        peer = LogisticRegression(C=1 / (l2 * 120), tol=1e-10, max_iter=10_000).fit(x, labels.numpy())
        assert heads.weight[head].detach().numpy() == pytest.approx(peer.coef_, abs=1e-3)
        ours = heads.logits(head, features).softmax(dim=1).numpy()
        assert ours == pytest.approx(peer.predict_proba(x), abs=1e-3)


def test_an_image_without_a_share_is_not_learnt_from() -> None:
    """Of two heads of one penalty the first learns from the first 90 images alone."""
    features, labels = clouds(120, 0)
    shares = torch.full((2, 120), 1 / 120, dtype=torch.float64)
    shares[0, :90], shares[0, 90:] = 1 / 90, 0
    mean, std = features.mean(dim=0), features.std(dim=0, correction=0)
    heads, alone = LinearHeads((0.01, 0.01), 4, mean, std), LinearHeads((0.01,), 4, mean, std)
    trained(heads, 30, features, labels, shares)
    trained(alone, 30, features[:90], labels[:90], torch.full((1, 90), 1 / 90, dtype=torch.float64))
    assert torch.allclose(heads.weight[0], alone.weight[0], atol=1e-9)
    assert not torch.allclose(heads.weight[1], alone.weight[0], atol=1e-3)


def test_patches_go_through_torchs_batch_norm_and_convolution() -> None:
    """Losses, gradients and what scores: of a BatchNorm2d, a 1x1 Conv2d and torch's upsampling."""
    torch.manual_seed(0)
    patches = 3 + 2 * torch.randn(2, 3, 4, 5, dtype=torch.float64)
    labels = torch.randint(3, (2, 12, 16))
    labels[0, :4] = 255
    heads = PatchHeads(L2, 3, 5).double()
    with torch.no_grad():
        for parameter in heads.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    shares = torch.tensor([[0.5, 0.5], [1.0, 0.0]], dtype=torch.float64)
    out = heads(patches, labels, shares)
    out.loss.backward()
    assert out.statistics is not None
    assert torch.equal(heads.running, torch.tensor([[0.0] * 5, [1.0] * 5], dtype=torch.float64))
    Probe(heads).after_step(out, Rate(0.0))
    for head, l2 in enumerate(L2):
        norm, conv = nn.BatchNorm2d(5).double(), nn.Conv2d(5, 3, 1).double()
        with torch.no_grad():
            norm.weight.copy_(heads.gain[head])
            norm.bias.copy_(heads.shift[head])
            conv.weight.copy_(heads.weight[head][:, :, None, None])
            conv.bias.copy_(heads.bias[head])
        logits = conv(norm(patches.movedim(-1, 1)))
        upsampled = F.interpolate(logits, (12, 16), mode="bilinear", align_corners=False)
        by_image = F.cross_entropy(upsampled, labels, ignore_index=255, reduction="none").flatten(1).mean(dim=1)
        assert pixel_loss(logits, labels, 255).tolist() == pytest.approx(by_image.tolist())
        ((by_image * shares[head]).sum() + l2 / 2 * conv.weight.square().sum()).backward()
        theirs = [norm.weight.grad, norm.bias.grad, conv.weight.grad[:, :, 0, 0], conv.bias.grad]
        ours = [p.grad[head] for p in (heads.gain, heads.shift, heads.weight, heads.bias)]
        assert all(torch.allclose(a, b) for a, b in zip(ours, theirs, strict=True))
        assert torch.allclose(heads.running, torch.stack([norm.running_mean, norm.running_var]))
        norm.eval()
        assert torch.allclose(heads.logits(head, patches), conv(norm(patches.movedim(-1, 1))))
