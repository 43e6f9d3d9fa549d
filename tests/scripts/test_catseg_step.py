"""What the measured step of CAT-Seg is compared with computes the same, forward and backward."""

from __future__ import annotations

import torch

from scripts.catseg_step import inputs, step
from silc.heads.catseg.aggregator import Aggregator
from silc.heads.catseg.config import AggregatorConfig


def test_both_ways_are_one_computation() -> None:
    config = AggregatorConfig(
        width=16, heads=2, window=2, guidance=8, decoder=(16, 16), decoder_projected=(4, 4), classes=9
    )
    net = Aggregator(config, 6).double()
    patches, texts, layers, truth = inputs(5, 4, config, dim=6)
    found = []
    for way in ("ours", "theirs"):
        net.zero_grad()
        given = patches.double().requires_grad_(), texts.double(), [x.double() for x in layers], truth
        loss = step(way, net, given)
        found.append([loss, given[0].grad, *(p.grad for p in net.parameters())])
    for ours, theirs in zip(*found, strict=True):
        assert torch.allclose(ours, theirs, atol=1e-12)
