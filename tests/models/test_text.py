"""The text tower against open_clip's, which has the same parameter names: forward and gradient."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from open_clip.transformer import QuickGELU, TextTransformer
from torch import nn

from silc.errors import BadInput
from silc.models.config import ImageTowerConfig, ModelConfig, TextTowerConfig
from silc.models.text import TextTower

VOCAB, EOS = 50, 49


def pair(causal: bool, width: int = 32, length: int = 10) -> tuple[TextTower, TextTransformer]:
    config = TextTowerConfig(length=length, width=width, depth=2, heads=4, mlp=width * 4, causal=causal)
    ours = TextTower(config, 24, vocab_size=VOCAB, eos_id=EOS)
    theirs = TextTransformer(
        context_length=length,
        vocab_size=VOCAB,
        width=width,
        heads=4,
        layers=2,
        output_dim=24,
        no_causal_mask=not causal,
        pool_type="argmax" if causal else "last",
        proj_bias=True,
    )
    # A buffer of theirs, the causal mask, is the only thing ours lacks.
    missing = theirs.load_state_dict(ours.state_dict(), strict=False)
    assert not missing.unexpected_keys
    assert set(missing.missing_keys) <= {"attn_mask"}
    return ours, theirs


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("batch", [1, 5])
def test_equals_open_clip(causal: bool, batch: int) -> None:
    ours, theirs = pair(causal)
    ids = torch.randint(0, EOS, (batch, 10))
    ids[:, 6] = EOS  # the end token has the highest id, which is what open_clip's argmax looks for
    ids[:, 7:] = 0
    out, expected = ours(ids), theirs(ids)
    torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-5)
    weight = torch.randn_like(out)
    (out * weight).sum().backward()
    (expected * weight).sum().backward()
    reference = dict(theirs.named_parameters())
    for name, parameter in ours.named_parameters():
        torch.testing.assert_close(parameter.grad, reference[name].grad, rtol=1e-3, atol=1e-5, msg=name)


@pytest.mark.parametrize("pool", ["last", "first", "eos", "argmax"])
@pytest.mark.parametrize("activation", ["gelu", "gelu_tanh", "quick_gelu"])
def test_other_forms_equal_open_clip(pool: Any, activation: Any) -> None:
    """Pooling, activation, epsilon and a projection without bias, with biases and norms that are not at their start."""
    theirs = TextTransformer(
        context_length=10,
        vocab_size=VOCAB,
        width=32,
        heads=4,
        layers=2,
        output_dim=24,
        no_causal_mask=pool == "first",
        pool_type=pool,
        eos_id=EOS - 1,
        act_layer={"gelu": nn.GELU, "gelu_tanh": partial(nn.GELU, approximate="tanh"), "quick_gelu": QuickGELU}[
            activation
        ],
        norm_layer=partial(nn.LayerNorm, eps=1e-2),
    )
    for parameter in theirs.parameters():
        nn.init.normal_(parameter, std=0.3)
    config = TextTowerConfig(
        **{"length": 10, "width": 32, "depth": 2, "heads": 4, "mlp": 128, "causal": pool != "first", "pool": pool},
        **{"activation": activation, "norm_eps": 1e-2, "projection": "linear"},
    )
    ours = TextTower(config, 24, vocab_size=VOCAB, eos_id=EOS - 1)
    weights = dict(theirs.state_dict())
    weights.pop("attn_mask", None)
    weights["text_projection.weight"] = weights.pop("text_projection").T
    ours.load_state_dict(weights)
    ids = torch.randint(0, EOS - 1, (5, 10))
    ids[:, 4], ids[:, 7] = EOS - 1, EOS  # `eos` finds the first, `argmax` the second
    torch.testing.assert_close(ours(ids), theirs(ids), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("pool", ["mean", "max", "map"])
def test_pools_over_every_position(pool: Any) -> None:
    config = TextTowerConfig(length=10, width=32, depth=1, heads=4, mlp=64, pool=pool, projection="none")
    tower = TextTower(config, 32, vocab_size=VOCAB, eos_id=EOS)
    ids = torch.randint(0, EOS, (3, 10))
    changed = ids.clone()
    changed[:, 3] = (ids[:, 3] + 1) % EOS
    assert tower(ids).shape == (3, 32)
    assert (tower(ids) - tower(changed)).abs().max() > 1e-4


def test_nonsense_is_refused() -> None:
    with pytest.raises(BadInput, match="sees no other"):
        TextTowerConfig(causal=True, pool="first")
    with pytest.raises(BadInput, match="norm_eps"):
        TextTowerConfig(norm_eps=0)
    with pytest.raises(BadInput, match=r"model\.text\.width 768"):
        ModelConfig(text=TextTowerConfig(projection="none"), image=ImageTowerConfig(pool="cls"), embed_dim=512)
    with pytest.raises(BadInput, match="tokenizer has 50 entries"):
        TextTower(TextTowerConfig(vocab_size=40, depth=1), 24, vocab_size=VOCAB, eos_id=EOS)


def test_causal_form_ignores_what_follows_the_end() -> None:
    tower, _ = pair(causal=True)
    ids = torch.randint(0, EOS, (3, 10))
    ids[:, 4] = EOS
    changed = ids.clone()
    changed[:, 5:] = 7
    torch.testing.assert_close(tower(ids), tower(changed))


def test_bidirectional_form_sees_every_position() -> None:
    tower, _ = pair(causal=False)
    ids = torch.randint(0, EOS, (3, 10))
    changed = ids.clone()
    changed[:, 0] = (ids[:, 0] + 1) % EOS
    assert (tower(ids) - tower(changed)).abs().max() > 1e-4
