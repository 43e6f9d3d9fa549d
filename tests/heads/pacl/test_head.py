"""PACL against its formula in float64 (oracles/pacl/formula.npz, which nobody else's code made), and what it costs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from silc.distributed import World
from silc.heads.pacl.config import PaclConfig
from silc.heads.pacl.head import PaclHead, compatibility
from silc.losses.pairs import matching_loss
from tests.largest import Largest

VARIANTS = {
    "dot_tau1": PaclConfig(hidden=16, similarity="dot", temperature=1.0, text_layer=True),
    "cos_tau0.07": PaclConfig(hidden=16, text_layer=True),
    "cos_normpooled_tau0.07": PaclConfig(hidden=16, unit_pooled=True, text_layer=True),
}
BLOCKS = [2**22, 60, 13]
"""Numbers of a block: all at once; a few texts; a text and an image at a time."""


@pytest.fixture
def of(silc_data: Path) -> Callable[[str], Tensor]:
    file = np.load(silc_data / "oracles/pacl/formula.npz", allow_pickle=False)
    return lambda name: torch.from_numpy(file[name]).double()


def head_of(of: Callable[[str], Tensor], config: PaclConfig) -> PaclHead:
    head = PaclHead(20, 16, config).double()
    head.text = torch.nn.Linear(14, 16).double()  # the fixture's texts have a width of their own
    head.load_state_dict({name: of(f"w/{name}") for name in head.state_dict()})
    return head


@pytest.mark.parametrize("at_once", BLOCKS)
@pytest.mark.parametrize("variant", VARIANTS)
def test_loss_and_gradients_are_the_formulas(of: Callable[[str], Tensor], variant: str, at_once: int) -> None:
    config = VARIANTS[variant]
    head, x, y = head_of(of, config), of("patches").requires_grad_(), of("texts").requires_grad_()
    found = compatibility(head.patches(x), head.texts(y), unit_pooled=config.unit_pooled, at_once=at_once)
    torch.testing.assert_close(found, of(f"{variant}/compatibility"), atol=1e-6, rtol=0)
    loss = matching_loss(found / config.temperature, World())
    assert loss.item() == pytest.approx(of(f"{variant}/loss").item(), abs=1e-6)
    loss.backward()
    gradients = {"grad_patches": x.grad, "grad_texts": y.grad}
    gradients |= {f"grad_w/{name}": p.grad for name, p in head.named_parameters()}
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, of(f"{variant}/{name}"), atol=1e-6, rtol=1e-6)


def test_similarities_with_classes_are_the_formulas(of: Callable[[str], Tensor]) -> None:
    for variant, kind in (("dot_tau1", "dot"), ("cos_tau0.07", "cos")):
        head = head_of(of, VARIANTS[variant])
        found = head.patches(of("patches")) @ head.texts(of("class_texts")).T
        torch.testing.assert_close(found, of(f"patch_class_similarity_{kind}"), atol=1e-6, rtol=0)


def test_the_loss_is_the_public_reproductions(silc_data: Path) -> None:
    """Of that code (nms05.npz) the loss alone is ours: it weighs patches by sigmoids and layers of its own choice."""
    with np.load(silc_data / "oracles/pacl/nms05.npz") as theirs:
        images, texts = (torch.from_numpy(theirs[name]) for name in ("visual", "text"))
        loss = matching_loss(images @ texts.T / float(theirs["temperature"]), World())
        assert loss.item() == pytest.approx(float(theirs["loss"]), abs=1e-5)


def test_weights_of_patches_are_each_pairs_own() -> None:
    """The public reproduction weighs by the own caption alone; here another text pools other patches."""
    x, y = torch.eye(4)[None], torch.eye(4)[:2] * 50
    found = compatibility(x, y)
    torch.testing.assert_close(found, torch.full((1, 2), 50.0), atol=1e-3, rtol=0)


def test_memory_is_that_of_the_features_and_a_block() -> None:
    """All similarities of 64 images of 9 patches with 64 texts would be 36,864 numbers."""
    x, y = torch.randn(64, 9, 4, requires_grad=True), torch.randn(64, 4)
    with Largest() as made:
        matching_loss(compatibility(x, y, at_once=1024), World()).backward()
    assert made.numbers <= 64 * 64  # the matrix that the loss is of
    with Largest() as made:
        matching_loss(compatibility(x, y), World()).backward()
    assert made.numbers == 64 * 64 * 9


def test_it_trains_as_many_numbers_as_are_quoted() -> None:
    """About 1.1 M on ViT-B/16 with 512 wide texts; the text has none."""
    head = PaclHead(768, 512, PaclConfig())
    assert sum(p.numel() for p in head.parameters()) == 1_050_112
