"""TCL's parts are kakaobrain/tcl's, forward and gradient (oracles/tcl/parts.npz, float64)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from silc.distributed import World
from silc.heads.tcl.head import Doubling
from silc.heads.tcl.objective import scale_of
from silc.heads.tcl.terms import area_loss, hard_mask, pooled_within, roughness
from silc.losses.contrastive import softmax_loss
from silc.losses.pairs import matching_loss

Fixture = Callable[..., Tensor]


@pytest.fixture
def of(silc_data: Path) -> Fixture:
    file = np.load(silc_data / "oracles/tcl/parts.npz", allow_pickle=False)
    return lambda name: torch.from_numpy(file[name]).double()


def leaf(x: Tensor) -> Tensor:
    return x.clone().requires_grad_()


def close(found: Tensor | None, expected: Tensor, atol: float = 1e-6) -> None:
    assert found is not None
    torch.testing.assert_close(found.reshape(expected.shape).double(), expected, atol=atol, rtol=1e-5)


def test_the_decoder(of: Fixture, silc_data: Path) -> None:
    decoder = torch.nn.Sequential(Doubling(32), Doubling(32)).double()
    names = {"first": "conv", "second": "conv2"}
    own = dict(decoder.named_parameters())

    def theirs(name: str) -> str:
        layer, part, rest = name.split(".", 2)
        return f"net.{layer}.{names[part]}.{'gate.gate' if rest == 'gate' else rest}"

    decoder.load_state_dict({name: of(f"dec/w/{theirs(name)}").reshape(p.shape) for name, p in own.items()})
    x = leaf(of("dec/x"))
    y = decoder(x)
    close(y, of("dec/y"), 1e-5)
    (y * of("dec/upstream")).sum().backward()
    close(x.grad, of("dec/grad_x"), 1e-4)
    for name, parameter in own.items():
        torch.testing.assert_close(
            parameter.grad, of(f"dec/gradw/{theirs(name)}").reshape(parameter.shape), atol=1e-4, rtol=1e-5
        )


def test_it_begins_as_the_nearest_patch() -> None:
    x = torch.randn(1, 8, 3, 5)
    found = torch.nn.Sequential(Doubling(8), Doubling(8))(x)
    assert torch.equal(found, x.repeat_interleave(4, dim=2).repeat_interleave(4, dim=3))


def test_masks_hard_and_soft(of: Fixture) -> None:
    sim, w, b = leaf(of("s2m/sim")), leaf(of("s2m/w")), leaf(of("s2m/b"))
    logits = sim * w + b
    hard, soft = hard_mask(logits, of("s2m/uniform"), of("s2m/tau").item()), logits.sigmoid()
    close(hard, of("s2m/hard"))
    close(soft, of("s2m/soft"))
    close((soft > 0.5).double(), of("s2m/hard_deterministic"))
    ((hard * of("s2m/up_hard")).sum() + (soft * of("s2m/up_soft")).sum()).backward()
    close(sim.grad, of("s2m/grad_sim"), 1e-5)
    close(w.grad, of("s2m/grad_w"), 1e-4)
    close(b.grad, of("s2m/grad_b"), 1e-4)


def test_noise_at_the_ends_of_its_range_is_finite() -> None:
    """torch draws zeros, and in float32 numbers whose distance from 1 is the smallest there is."""
    logits = leaf(torch.zeros(2))
    hard_mask(logits, torch.tensor([0.0, 1 - 2**-24]), 1.0).sum().backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize("temperature", ["T0.07", "T0.005"])
def test_image_text_losses(of: Fixture, temperature: str) -> None:
    """Above a scale of 100 that has no gradient."""
    for kind in ("infonce", "ext_infonce"):
        at = f"{kind}/{temperature}/"
        image, text, scale = leaf(of(at + "image")), leaf(of(at + "text")), leaf(of(at + "logit_scale")[None])
        x, y = (torch.nn.functional.normalize(t, dim=-1) for t in (image, text))
        if kind == "infonce":
            loss, atol = softmax_loss(x, y, scale_of(scale), World()), 1e-4  # in float32, as training has it
        else:
            loss = matching_loss(torch.einsum("bnd,nd->bn", x, y) * scale_of(scale), World())
            atol = 1e-4
        close(loss, of(at + "loss"), atol)
        loss.backward()
        close(image.grad, of(at + "grad_image"), atol)
        close(text.grad, of(at + "grad_text"), atol)
        close(scale.grad, of(at + "grad_logit_scale"), atol)


def test_area_smoothness_and_pooling(of: Fixture) -> None:
    mask = leaf(of("area/mask"))
    loss = area_loss(mask, 0.4, World())
    close(loss, of("area/loss_prior0.4"))
    loss.backward()
    close(mask.grad, of("area/grad"))
    close(area_loss(mask, 0.0, World()), of("area/loss_prior0"))
    x = leaf(of("tv/x"))
    roughness(x).backward()
    close(roughness(x), of("tv/loss"))
    close(x.grad, of("tv/grad"))
    emb, masks = leaf(of("pool/emb")), leaf(of("pool/mask"))
    out = pooled_within(emb, masks)
    close(out, of("pool/out"))
    (out * of("pool/up")).sum().backward()
    close(emb.grad, of("pool/grad_emb"))
    torch.testing.assert_close(masks.grad, of("pool/grad_mask"), atol=1e-5, rtol=1e-4)
