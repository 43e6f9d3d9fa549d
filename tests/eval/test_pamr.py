"""PAMR against a plain loop, and what it keeps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from silc.eval.pamr import affinity, refine, refine_at_their_size


def test_affinity_equals_a_loop_over_pixels():
    image, dilations = torch.randn(3, 6, 7, dtype=torch.float64), (1, 3)
    got = affinity(image, dilations)
    for y, x in [(0, 0), (3, 3), (5, 6), (2, 0)]:
        around, everyone = [], []
        for distance in dilations:
            for dy in (-distance, 0, distance):
                for dx in (-distance, 0, distance):
                    value = image[:, min(max(y + dy, 0), 5), min(max(x + dx, 0), 6)]
                    everyone.append(value)
                    if (dy, dx) != (0, 0):
                        around.append(value)
        std = torch.stack(everyone).std(0)
        k = torch.stack([-(image[:, y, x] - value).abs() / (1e-8 + 0.1 * std) for value in around]).mean(1)
        torch.testing.assert_close(got[:, y, x], k.softmax(0))


def test_what_it_keeps():
    image, maps = torch.randn(3, 40, 50), torch.rand(5, 40, 50)
    refined = refine(maps, image)
    torch.testing.assert_close(refined.sum(0), refine(maps.sum(0, keepdim=True), image)[0])
    shares = maps.softmax(0)
    torch.testing.assert_close(refine(shares, image).sum(0), torch.ones(40, 50), atol=1e-5, rtol=0)
    flat = torch.tensor([0.2, 0.8])[:, None, None].expand(2, 40, 50)
    torch.testing.assert_close(refine(flat, image), flat, atol=1e-5, rtol=0)
    assert (refined.amin((1, 2)) >= maps.amin((1, 2)) - 1e-6).all()
    assert (refined.amax((1, 2)) <= maps.amax((1, 2)) + 1e-6).all()


def test_a_flat_image_is_finite():
    assert refine(torch.rand(2, 30, 30), torch.full((3, 30, 30), 0.3)).isfinite().all()


def test_edges_hold_the_classes_apart():
    """A blurred map of two halves becomes sharp where the image has its edge."""
    image = torch.zeros(3, 32, 32)
    image[:, :, 16:] = 2
    image += 0.01 * torch.randn(3, 32, 32)
    truth = (torch.arange(32) >= 16).float().expand(1, 32, 32)
    blurred = F.avg_pool2d(F.pad(truth[None], (6,) * 4, mode="replicate"), 13, stride=1)[0]
    error = [(maps - truth).abs().mean().item() for maps in (blurred, refine(blurred, image))]
    assert error[1] < 0.6 * error[0]


@pytest.fixture
def tcl(silc_data: Path) -> Path:
    folder = silc_data / "oracles/tcl"
    if not folder.is_dir():
        pytest.skip(f"no outputs of TCL at {folder}")
    return folder


@pytest.mark.parametrize(("rounds", "dilations"), [(1, (1,)), (3, (2, 5)), (10, (8, 16)), (10, (1, 2, 4, 8, 12, 24))])
def test_equals_tcls_own(tcl: Path, rounds: int, dilations: tuple[int, ...]) -> None:
    """Its module enlarges a mask to the image's size first; here both have it."""
    with np.load(tcl / "pamr.npz", allow_pickle=False) as kept:
        name = f"out/iter{rounds}/dil{'-'.join(map(str, dilations))}"
        image, mask, expected = (torch.from_numpy(kept[one]).double() for one in ("image", "mask", name))
    enlarged = F.interpolate(mask, image.shape[-2:], mode="bilinear", align_corners=True)
    for one, maps, want in zip(image, enlarged, expected, strict=True):
        torch.testing.assert_close(refine(maps, one, rounds, dilations), want, atol=1e-6, rtol=0)


def test_equals_tcls_whole_segmentation(tcl: Path) -> None:
    """`generate_masks` with PAMR: on the masks' grid of 24 x 32, then enlarged to the padded 48 x 64, then cut."""
    with np.load(tcl / "full.npz", allow_pickle=False) as kept:
        similar = torch.from_numpy(kept["seg/simmap"][0]).double()
        mask = torch.sigmoid(similar * float(kept["masker/sim2mask.w"]) + float(kept["masker/sim2mask.b"]))
        image = F.pad(torch.from_numpy(kept["seg/image"][0]).double(), (1, 1, 1, 2))
        plain, refined = (torch.from_numpy(kept[f"seg/mask_pamr{i}_kp0.0"][0]).double() for i in (0, 1))
    for maps, want in ((mask, plain), (refine_at_their_size(mask, image), refined)):
        enlarged = F.interpolate(maps[None], (48, 64), mode="bilinear", align_corners=False)[0]
        torch.testing.assert_close(enlarged[:, 1:46, 1:63], want, atol=2e-5, rtol=0)
