"""Low-rank changes against peft's, and against the sum written out."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

from silc.models import lora
from silc.models.config import ImageTowerConfig, TextTowerConfig
from silc.models.image import ImageTower
from silc.models.teacher import Teacher
from silc.models.text import TextTower

RANK = 3


def image_tower(pool: Any = "map") -> ImageTower:
    torch.manual_seed(0)
    return ImageTower(ImageTowerConfig(size=16, patch=8, width=32, depth=2, heads=2, mlp=48, pool=pool), 32)


def text_tower() -> TextTower:
    torch.manual_seed(0)
    return TextTower(TextTowerConfig(length=6, width=32, depth=2, heads=2, mlp=48), 24, vocab_size=40, eos_id=1)


def adapted(tower: Any) -> Any:
    """A copy with changes that are not zero."""
    tower = copy.deepcopy(tower)
    lora.adapt(tower, RANK)
    with torch.no_grad():
        for name, p in tower.named_parameters():
            if name.endswith(".up"):
                p.normal_(std=0.1)
    return tower


def changes(tower: nn.Module) -> dict[str, lora.LowRank]:
    """Each by the name of the matrix it changes."""
    found = ((name, part) for name, part in tower.named_modules() if isinstance(part, lora.LowRank))
    return {name.replace("parametrizations.", "").removesuffix(".0"): part for name, part in found}


@pytest.mark.parametrize("pool", ["map", "cls"])
def test_linear_layers_equal_pefts(pool: Any) -> None:
    """Output and the gradients of A and B, with peft's factor alpha / r at 1."""
    import peft

    plain, images = image_tower(pool).double(), torch.randn(3, 3, 16, 24).double()
    ours = adapted(plain).double()
    layers = r"trunk\.blocks\.\d+\.(attn\.qkv|attn\.proj|mlp\.fc1|mlp\.fc2)"
    config = peft.LoraConfig(r=RANK, lora_alpha=RANK, target_modules=layers)
    theirs: Any = peft.inject_adapter_in_model(config, copy.deepcopy(plain)).double()
    pairs = []
    for name, change in changes(ours).items():
        layer = theirs.get_submodule(name.removesuffix(".weight"))
        down, up = layer.lora_A["default"].weight, layer.lora_B["default"].weight
        assert not up.any()  # as ours before `adapted`
        with torch.no_grad():
            down.copy_(change.down)
            up.copy_(change.up)
        pairs += [(change.down, down), (change.up, up)]
    assert len(pairs) == 2 * 4 * 2
    outs = [tower(images) for tower in (ours, theirs)]
    assert not torch.allclose(outs[0], plain(images), atol=1e-3)
    torch.testing.assert_close(*outs)
    for out in outs:
        out.square().sum().backward()
    for mine, other in pairs:
        assert mine.grad.abs().max() > 1e-6
        torch.testing.assert_close(mine.grad, other.grad, rtol=1e-6, atol=1e-12)
    learning = {name for name, p in ours.named_parameters() if p.requires_grad}
    assert len(learning) == len(pairs) == len([p for p in theirs.parameters() if p.requires_grad])


def test_the_text_towers_raw_matrices_too() -> None:
    """in_proj_weight belongs to no linear layer; the sum written out, in float64."""
    plain, ids = text_tower().double(), torch.randint(2, 40, (3, 6))
    ours = adapted(plain).double()
    assert {name.split(".")[-2] for name in changes(ours)} == {"attn", "out_proj", "c_fc", "c_proj"}
    by_hand, leaves = copy.deepcopy(plain), []
    state = dict(by_hand.named_parameters())
    for name, change in changes(ours).items():
        down, up = (x.detach().clone().requires_grad_() for x in (change.down, change.up))
        rows = [sum(up[i, r] * down[r] for r in range(RANK)) for i in range(len(up))]
        state[name] = plain.get_parameter(name).detach() + torch.stack(rows)  # type: ignore[arg-type]
        leaves += [(change.down, down), (change.up, up)]
    out, expected = ours(ids), torch.func.functional_call(by_hand, state, (ids,))
    torch.testing.assert_close(out, expected)
    out.square().sum().backward()
    expected.square().sum().backward()
    for mine, other in leaves:
        torch.testing.assert_close(mine.grad, other.grad)


def test_at_first_it_changes_nothing() -> None:
    plain, images = image_tower(), torch.randn(2, 3, 16, 16)
    tower = copy.deepcopy(plain)
    lora.adapt(tower, RANK)
    assert torch.equal(tower(images), plain(images))


def test_merged_is_a_plain_tower_and_unmerged_goes_on() -> None:
    plain, images = image_tower("cls"), torch.randn(2, 3, 16, 16)
    tower = adapted(plain)
    model, beside = lora.merged(tower), lora.added(tower)
    assert model.keys() == plain.state_dict().keys()
    assert not lora.added(plain)
    again = image_tower("cls")
    again.load_state_dict(model)
    torch.testing.assert_close(again(images), tower(images), rtol=0, atol=1e-6)
    other = copy.deepcopy(plain)
    lora.adapt(other, RANK)
    other.load_state_dict(lora.unmerged(other, model, beside))
    assert torch.equal(other(images), tower(images))
    for name, tensor in tower.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[name]), name


def test_the_teacher_averages_the_sum() -> None:
    plain = image_tower()
    teacher, tower = Teacher(plain, None), adapted(plain)
    teacher.update(tower, None, momentum=0.75)
    for name, before in plain.state_dict().items():
        expected = 0.75 * before.double() + 0.25 * lora.merged(tower)[name].double()
        torch.testing.assert_close(teacher.visual.state_dict()[name].double(), expected, rtol=0, atol=1e-6)


def test_a_frozen_tower_stays_frozen() -> None:
    tower = text_tower().requires_grad_(False)
    lora.adapt(tower, RANK)
    assert not lora.added(tower)
    assert not any(p.requires_grad for p in tower.parameters())
