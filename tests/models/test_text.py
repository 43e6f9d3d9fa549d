"""The text tower against open_clip's, which has the same parameter names: forward and gradient."""

from __future__ import annotations

import pytest
import torch
from open_clip.transformer import TextTransformer

from silc.models.config import TextTowerConfig
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
