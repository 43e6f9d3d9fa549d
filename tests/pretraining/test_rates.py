"""Layers at different rates, towers that stand still: which parameter learns how fast."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from silc.config import Config
from silc.distributed import World
from silc.errors import BadInput
from silc.models import lora
from silc.objective import SilcObjective
from silc.preprocess import Preprocess
from silc.pretraining.rates import decays, freeze, groups, layer_lr_scales
from silc.step import Hyper
from silc.training.optim import Optimizer


def build(config: Config) -> SilcObjective:
    return SilcObjective(
        config.model, config.objective, preprocess=Preprocess(16), world=World(), vocab_size=60, eos_id=1
    )


@pytest.fixture
def deep(small: Callable[..., Config]) -> Config:
    """Image tower of 3 blocks with a class token, text tower of 2."""
    config = small("silc_c")
    model = replace(
        config.model,
        image=replace(config.model.image, depth=3, pool="cls"),
        text=replace(config.model.text, depth=2),
    )
    return replace(config, model=model, objective=replace(config.objective, patches="masked"))


BY_HAND = {
    "student.visual.trunk.cls_token": 4,
    "student.visual.trunk.pos_embed": 4,
    "student.visual.trunk.patch_embed.proj.weight": 4,
    "student.visual.trunk.blocks.0.norm1.weight": 3,
    "student.visual.trunk.blocks.1.attn.qkv.weight": 2,
    "student.visual.trunk.blocks.2.mlp.fc2.bias": 1,
    "student.visual.trunk.norm.weight": 0,
    "student.visual.head.proj.weight": 0,
    "student.text.positional_embedding": 3,
    "student.text.token_embedding.weight": 3,
    "student.text.transformer.resblocks.0.ln_1.weight": 2,
    "student.text.transformer.resblocks.1.attn.in_proj_weight": 1,
    "student.text.ln_final.weight": 0,
    "student.text.text_projection.weight": 0,
    "student.logit_scale": 0,
    "head.mlp.0.weight": 0,
    "head.prototypes": 0,
    "patch_head.mask_token": 0,
    "patch_head.head.mlp.4.bias": 0,
}
"""Power of the decay, as BEiT counts: depth + 1 - layer."""


def test_factors_are_beits(deep: Config) -> None:
    names = [name for name, p in build(deep).named_parameters() if p.requires_grad]
    lr_scales = layer_lr_scales(names, 0.5)
    assert lr_scales.keys() == set(names)
    for name, power in BY_HAND.items():
        assert lr_scales[name] == 0.5**power, name
    assert set(layer_lr_scales(names, 1.0).values()) == {1.0}


def test_each_group_steps_at_its_own_rate(deep: Config) -> None:
    """Adam's first step is the rate in every coordinate, so the weights say which rate they had."""
    objective = build(deep)
    config = replace(deep.train.optim, layer_decay=0.5, weight_decay=0.0)
    optimizer = Optimizer(config, objective, groups(objective, config))
    assert sum(len(group["params"]) for group in optimizer.adamw.param_groups) == len(optimizer.parameters)
    before = {name: p.detach().clone() for name, p in optimizer.parameters.items()}
    for p in optimizer.parameters.values():
        p.grad = torch.ones_like(p)
    optimizer.step(Hyper(lr=1e-2, momentum=0.9, temperature=0.04))
    for name, power in BY_HAND.items():
        moved = (before[name] - optimizer.parameters[name].detach()).mean().item()
        assert moved == pytest.approx(1e-2 * 0.5**power, rel=1e-3), name


@pytest.mark.parametrize("tower", ["image", "text"])
def test_a_frozen_tower_has_no_state_and_takes_no_step(small: Callable[..., Config], tower: str) -> None:
    objective = build(small("clip"))
    freeze(objective, [tower])
    optim = small("clip").train.optim
    optimizer = Optimizer(optim, objective, groups(objective, optim))
    prefix = {"image": "student.visual.", "text": "student.text."}[tower]
    assert not [name for name in optimizer.parameters if name.startswith(prefix)]
    before = {name: p.detach().clone() for name, p in objective.named_parameters()}
    for p in optimizer.parameters.values():
        p.grad = torch.ones_like(p)
    optimizer.step(Hyper(lr=1e-2, momentum=0.9, temperature=0.04))
    for name, p in objective.named_parameters():
        assert torch.equal(p, before[name]) == (name.startswith(prefix) or name == "student.logit_bias"), name
    assert not [name for name in optimizer.state() if name.startswith(prefix)]


KERNELS = {
    *("student.visual.trunk.patch_embed.proj.weight", "student.visual.trunk.blocks.0.attn.qkv.weight"),
    *("student.visual.trunk.blocks.0.attn.proj.weight", "student.visual.trunk.blocks.0.mlp.fc1.weight"),
    *("student.visual.trunk.blocks.0.mlp.fc2.weight", "student.text.transformer.resblocks.0.attn.in_proj_weight"),
    *("student.text.transformer.resblocks.0.attn.out_proj.weight", "student.text.text_projection.weight"),
    *("student.text.transformer.resblocks.0.mlp.c_fc.weight", "student.text.transformer.resblocks.0.mlp.c_proj.weight"),
    *("head.mlp.0.weight", "head.mlp.2.weight", "head.mlp.4.weight", "patch_head.head.mlp.0.weight"),
    *("patch_head.head.mlp.2.weight", "patch_head.head.mlp.4.weight"),
}
"""What flax calls `kernel` in these towers, beside what the pooling adds."""
OF_POOLING = {
    "cls": {"student.visual.head.proj.weight"},
    "map": {f"student.visual.trunk.attn_pool.{name}.weight" for name in ("q", "kv", "proj", "mlp.fc1", "mlp.fc2")},
}
NO_KERNELS = {
    *("student.visual.trunk.pos_embed", "student.text.positional_embedding", "student.text.token_embedding.weight"),
    *("head.prototypes", "patch_head.head.prototypes"),
}
"""Matrices that decay only where all do, beside what the pooling adds."""
LEARNT_TOKENS = {"cls": {"student.visual.trunk.cls_token"}, "map": {"student.visual.trunk.attn_pool.latent"}}


@pytest.mark.parametrize("pool", ["cls", "map"])
@pytest.mark.parametrize("which", ["kernels", "matrices"])
def test_what_decays_is_what_a_hand_finds(small: Callable[..., Config], pool: str, which: str) -> None:
    """With no gradient AdamW's step is the decay alone, p -> p (1 - lr wd), so the weights say where it fell."""
    config = small("silc_c")
    model = replace(config.model, image=replace(config.model.image, pool=pool))
    objective = build(replace(config, model=model, objective=replace(config.objective, patches="masked")))
    optim = replace(config.train.optim, decay=which, weight_decay=0.5)
    optimizer = Optimizer(optim, objective, groups(objective, optim))
    with torch.no_grad():
        for p in optimizer.parameters.values():
            p.copy_(torch.ones_like(p))
            p.grad = torch.zeros_like(p)
    optimizer.step(Hyper(lr=1e-2, momentum=0.9, temperature=0.04))
    fell = {name for name, p in optimizer.parameters.items() if not torch.equal(p, torch.ones_like(p))}
    more = (NO_KERNELS | LEARNT_TOKENS[pool]) if which == "matrices" else set()
    assert fell == KERNELS | OF_POOLING[pool] | more
    assert all(torch.allclose(optimizer.parameters[name], torch.tensor(1 - 1e-2 * 0.5)) for name in fell)


def test_low_rank_changes_decay_as_the_kernels_they_are_added_to(small: Callable[..., Config]) -> None:
    objective = build(small("clip"))
    lora.adapt(objective.student.visual, 2)
    learning = {name for name, p in objective.student.visual.named_parameters() if p.requires_grad}
    assert learning
    assert {f"student.visual.{name}" for name in learning} <= decays(objective, "kernels")


def test_no_such_decay(small: Callable[..., Config]) -> None:
    with pytest.raises(BadInput, match=r"layer_decay is 1.5; needed a number above 0 and at most 1"):
        replace(small("clip").train.optim, layer_decay=1.5)
