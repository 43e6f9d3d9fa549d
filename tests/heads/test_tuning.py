"""What towers learn beside a head."""

from __future__ import annotations

import pytest
import torch

from silc.heads import tuning
from silc.models.config import ImageTowerConfig, TextTowerConfig
from silc.models.image import ImageTower
from silc.models.text import TextTower
from silc.training.config import OptimConfig


def towers() -> dict[str, torch.nn.Module]:
    torch.manual_seed(0)
    image = ImageTower(ImageTowerConfig(size=16, patch=8, width=16, depth=2, heads=2, mlp=32, pool="cls"), 16)
    text = TextTower(TextTowerConfig(length=8, width=16, depth=2, heads=2, mlp=32), 16, vocab_size=20, eos_id=1)
    return {"image": image, "text": text}


def outputs(both: dict[str, torch.nn.Module]) -> torch.Tensor:
    images, ids = torch.linspace(-1, 1, 2 * 3 * 16 * 16).view(2, 3, 16, 16), torch.arange(16).view(2, 8)
    return torch.cat([both["image"](images), both["text"](ids)])


@pytest.mark.parametrize("optim", [OptimConfig(), OptimConfig(lora=2), OptimConfig(freeze=("text",))], ids=str)
def test_nothing_is_changed_before_the_first_step_and_settling_keeps_what_was_learnt(optim: OptimConfig) -> None:
    both = towers()
    before = outputs(both)
    tuning.tune(both, optim)
    assert torch.allclose(outputs(both), before, atol=1e-6)
    step = torch.optim.AdamW([p for tower in both.values() for p in tower.parameters() if p.requires_grad], lr=0.1)
    keys = both["image"].trunk.blocks[0].attn.qkv.weight.chunk(3)[1].clone()
    outputs(both).square().sum().backward()
    step.step()
    after = outputs(both)
    assert not torch.allclose(after[:2], before[:2], atol=1e-3)
    assert torch.allclose(after[2:], before[2:]) == ("text" in optim.freeze)
    if not optim.lora:  # neither the gradient nor the decay meets them
        assert torch.equal(both["image"].trunk.blocks[0].attn.qkv.weight.chunk(3)[1], keys)
    for tower in both.values():
        tuning.settle(tower)
    assert torch.allclose(outputs(both), after, atol=1e-6)
    assert not [name for name, _ in both["image"].named_parameters() if "parametrizations" in name]


def test_a_checkpoint_holds_what_is_learnt_alone() -> None:
    both = towers()
    assert tuning.tune(both, OptimConfig()).startswith("2,048 of the towers' ")
    for tower in both.values():
        names = tuning.learnt(tower)
        assert names
        assert all(name.endswith((".q", ".v")) for name in names)
    assert sum(x.numel() for tower in both.values() for x in tuning.learnt(tower).values()) == 4 * 2 * 16 * 16


def test_frozen_towers_learn_nothing() -> None:
    both = towers()
    assert tuning.tune(both, OptimConfig(freeze=("image", "text"))) == "the towers are not trained"
    assert not any(tuning.learnt(tower) for tower in both.values())
