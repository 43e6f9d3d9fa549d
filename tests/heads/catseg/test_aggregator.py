"""The network against the authors' code: stored weights, inputs, logits and gradients."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from silc.heads.catseg.aggregator import LEFT_OUT, Aggregator, LinearAttention, window_of
from silc.heads.catseg.config import AggregatorConfig
from silc.heads.catseg.model import bce
from tests.largest import Largest

CASES = ("T7", "T5_evalpool", "T300", "P3", "win12")


def config_of(theirs: dict) -> AggregatorConfig:
    """Our settings of what the authors' `Aggregator` is called with."""
    return AggregatorConfig(
        width=theirs["hidden_dim"],
        layers=theirs["num_layers"],
        heads=theirs["nheads"],
        window=theirs["window_size"],
        pool=theirs["pooling_size"][0],
        guidance=theirs["appearance_guidance_proj_dim"],
        decoder=tuple(theirs["decoder_dims"]),
        decoder_guidance=tuple(theirs["decoder_guidance_dims"]),
        decoder_projected=tuple(theirs["decoder_guidance_proj_dims"]),
        classes=theirs["pad_len"],
    )


def fixture(silc_data: Path, case: str) -> dict[str, np.ndarray]:
    return dict(np.load(silc_data / "oracles" / "catseg" / f"agg_{case}.npz", allow_pickle=False))


def network(stored: dict[str, np.ndarray]) -> Aggregator:
    theirs = json.loads(str(stored["config"]))
    built = Aggregator(config_of(theirs), stored["img_feats"].shape[1], theirs.get("prompt_channel", 1)).double()
    weights = {name[2:]: torch.from_numpy(w).double() for name, w in stored.items() if name.startswith("w/")}
    built.load_state_dict(weights)  # every name is theirs
    return built.train()  # which pools, as their configuration says


def inputs(stored: dict[str, np.ndarray]) -> list[Tensor]:
    names = ("img_feats", "text_feats", "guidance1", "guidance2")
    return [torch.from_numpy(stored[name]).double().requires_grad_() for name in names]


def assert_near(ours: Tensor, theirs: np.ndarray, share: float) -> None:
    """Within a share of the largest."""
    wanted = torch.from_numpy(theirs).double()
    assert (ours.double() - wanted).abs().max() <= share * wanted.abs().max().clamp(min=1e-12)


@pytest.mark.parametrize("case", CASES)
def test_logits_loss_and_gradients_are_the_authors(silc_data: Path, case: str) -> None:
    stored = fixture(silc_data, case)
    built, (patches, texts, *layers) = network(stored), inputs(stored)
    logits = built(patches, texts, layers)
    assert_near(logits, stored["logits"], 1e-6)
    target = torch.from_numpy(stored["target"]).long()
    loss = bce(logits, target)
    assert loss.item() == pytest.approx(float(stored["loss"]), rel=1e-5)
    loss.backward()
    # Stored in float32, so to seven digits of the largest; the dense features' gradient has both paths.
    for name, tensor in zip(
        ("img_feats", "text_feats", "guidance1", "guidance2"), (patches, texts, *layers), strict=True
    ):
        assert_near(tensor.grad, stored[f"grad_{name}"], 1e-5)
    own = dict(built.named_parameters())
    for name, theirs in zip(stored["param_grad_norm_names"].tolist(), stored["param_grad_norms"].tolist(), strict=True):
        assert (own[name].grad is None) == (theirs < 0), name
        if theirs >= 0:
            assert own[name].grad.norm().item() == pytest.approx(theirs, rel=1e-4, abs=1e-9), name


def test_of_many_classes_those_of_the_highest_cosines_are_looked_at(silc_data: Path) -> None:
    """44 of 300 score -100, as stored; and each image has its own."""
    stored = fixture(silc_data, "T300")
    built, (patches, texts, *layers) = network(stored), inputs(stored)
    with torch.no_grad():
        logits = built(patches, texts, layers)
    left_out = (logits == LEFT_OUT).flatten(2).all(dim=2)
    assert left_out.sum(dim=1).tolist() == [44] * len(logits)
    kept = (~left_out).nonzero()[:, 1].view(len(logits), -1)
    assert np.array_equal(kept.numpy(), np.sort(stored["kept_classes"], axis=1))


def test_a_class_does_not_depend_on_how_many_are_decoded_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no gradient is kept the decoder takes some at a time; in training and in use the numbers are the same."""
    config = AggregatorConfig(
        width=16, layers=1, heads=2, window=4, guidance=8, decoder=(16, 16), decoder_projected=(4, 4), classes=8, pool=1
    )
    built = Aggregator(config, 6).double()
    patches, texts = torch.randn(2, 6, 4, 4).double(), torch.randn(2, 5, 1, 6).double()
    layers = torch.randn(2, 256, 8, 8).double(), torch.randn(2, 128, 16, 16).double()
    whole = built(patches, texts, layers).detach()
    monkeypatch.setattr("silc.heads.catseg.aggregator.AT_ONCE", 1)
    with torch.no_grad():
        assert torch.allclose(built(patches, texts, layers), whole, atol=1e-12)


def small(**more: int) -> AggregatorConfig:
    """A network of few channels."""
    sizes = {"width": 16, "layers": 1, "heads": 2, "window": 4, "guidance": 8, "classes": 8}
    return AggregatorConfig(**(sizes | more), decoder=(16, 16), decoder_projected=(4, 4))


def test_maps_are_pooled_in_training_alone() -> None:
    pooled, plain = Aggregator(small(pool=2), 6), Aggregator(small(pool=1), 6)
    plain.load_state_dict(pooled.state_dict())
    seen = torch.randn(1, 6, 4, 4), torch.randn(1, 5, 1, 6), (torch.randn(1, 256, 8, 8), torch.randn(1, 128, 16, 16))
    with torch.no_grad():
        assert torch.equal(pooled.eval()(*seen), plain.eval()(*seen))
        assert not torch.allclose(pooled.train()(*seen), plain.train()(*seen), atol=1e-4)


def test_sums_over_classes_are_in_float32_under_autocast() -> None:
    """Of inputs that bfloat16 holds exactly, in projections as well: what differs is the attention alone."""
    attention = LinearAttention(small())
    for p in attention.parameters():
        p.data = torch.randint(-2, 3, p.shape).float() / 4
    x, guidance = torch.randint(-1, 2, (1, 200, 16)).float(), torch.randint(-1, 2, (1, 200, 8)).float()
    filler = torch.randint(-1, 2, (16,)).float(), torch.randint(-1, 2, (8,)).float()
    with torch.no_grad():
        wanted = attention(x, guidance, filler, 56)
        with torch.autocast("cpu", torch.bfloat16):
            found = attention(x, guidance, filler, 56)
    assert (found.float() - wanted).abs().max() <= 1e-5 * wanted.abs().max()


def test_memory_is_flat_in_the_number_of_classes() -> None:
    """At B/16's size, a view of 847 classes makes no larger tensor than one of 256 (0.4 GB, the attention's)."""
    found = []
    with torch.device("meta"), torch.no_grad():
        built = Aggregator(AggregatorConfig(), 512).eval()
        layers = torch.empty(1, 256, 48, 48), torch.empty(1, 128, 96, 96)
        for classes in (256, 847):
            with Largest() as largest:
                logits = built(torch.empty(1, 512, 24, 24), torch.empty(1, classes, 1, 512), layers)
            assert logits.shape == (1, classes, 96, 96)
            found.append(largest.numbers)
    assert found[0] == found[1] < 10**8


def test_windows_divide_the_grid() -> None:
    assert [window_of(n, n, 12) for n in (24, 48, 12, 14, 37, 4)] == [12, 12, 12, 7, 1, 4]
    assert window_of(8, 12, 12) == 4


def test_ignored_pixels_have_targets_of_zero_and_are_in_the_mean() -> None:
    """Against torch's loss of one-hot targets that are made."""
    logits, truth = torch.randn(2, 3, 4, 4).double(), torch.randint(0, 3, (2, 8, 8))
    truth[:, :3], truth[:, 3] = 255, 65_535
    wanted = F.one_hot(truth.where(truth < 3, 3), 4)[..., :3].permute(0, 3, 1, 2).double()
    upsampled = F.interpolate(logits, (8, 8), mode="bilinear", align_corners=False)
    theirs = F.binary_cross_entropy_with_logits(upsampled, wanted)
    assert bce(logits, truth.int()).item() == pytest.approx(theirs.item(), rel=1e-12)


def test_b16_has_the_published_size() -> None:
    assert sum(p.numel() for p in Aggregator(AggregatorConfig(), 512).parameters()) == 2_308_961
