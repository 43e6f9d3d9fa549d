"""Towers of every pooling at the sizes that detection has, from 384 pixels on."""

from __future__ import annotations

import pytest
import torch

from silc.heads.detect.config import LossConfig
from silc.heads.detect.head import DetectionHead
from silc.heads.detect.loss import Objects, detection_loss
from silc.heads.detect.model import Detector
from silc.heads.tuning import see_at
from silc.models.config import ImageTowerConfig, ModelConfig, TextTowerConfig
from silc.models.silc import TwoTower
from silc.preprocess import Preprocess


@pytest.mark.parametrize("size", [384, 960])
@pytest.mark.parametrize("pool", ["cls", "map", "mean"])
def test_any_pooling_learns_at_detections_sizes(pool: str, size: int) -> None:
    """Patches times the pooled token, of a tower that learnt at 64 px; every position learns."""
    torch.manual_seed(0)
    image = ImageTowerConfig(size=64, patch=32, width=16, depth=1, heads=2, mlp=32, pool=pool)
    text = TextTowerConfig(length=4, width=16, depth=1, heads=2, mlp=32)
    towers = TwoTower(ModelConfig(image=image, text=text, embed_dim=16), vocab_size=20, eos_id=1)
    see_at(towers.visual, size)
    detector = Detector(towers.visual, towers.text, DetectionHead(16, 16), Preprocess(size), LossConfig())
    images, queries = torch.randn(1, 3, size, size), torch.eye(16)[:2]
    found, side = detector.look(images, queries), size // 32
    tokens = towers.visual.trunk.tokens(images).final
    pooled = {"cls": tokens[:, :1], "mean": tokens.mean(dim=1, keepdim=True)}
    if pool in pooled:
        merged = detector.head.layer_norm(tokens[:, tokens.shape[1] - side**2 :] * pooled[pool])
        torch.testing.assert_close(found.logits, detector.head.class_head(merged, queries))
    corner = torch.tensor([(side // 2) / side, 1 / side, 1 / side, 1 / side])  # of a patch in the first row
    torch.testing.assert_close(found.boxes[0, side // 2 - 1], corner, atol=1e-3, rtol=0)
    detection_loss(found, [Objects(torch.tensor([[1.0, 0.0]]), corner[None])]).total.backward()
    gradient = towers.visual.trunk.pos_embed.grad
    assert gradient is not None
    assert gradient.isfinite().all()
    assert (gradient[0, -(side**2) :].abs().sum(dim=1) > 0).all()
