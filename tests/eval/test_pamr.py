"""PAMR against a plain loop, and what it keeps."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from silc.eval.pamr import affinity, refine


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
