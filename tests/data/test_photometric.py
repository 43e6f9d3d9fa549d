"""Each change against torchvision's, the draws against DINO's own composition, and that draws have names."""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import ColorJitter, GaussianBlur
from torchvision.transforms import functional as peer

from silc.cli import main
from silc.data.config import CropConfig, PhotometricConfig
from silc.data.crops import MultiCrop
from silc.data.pairs import ShardPairs
from silc.data.photometric import _jittered, photometric
from silc.preprocess import Preprocess
from silc.types import BadInput
from tests.data.conftest import photo

CONFIG = PhotometricConfig(on=True)
NEVER = replace(CONFIG, jitter_prob=0.0, grey_prob=0.0, blur_prob=(0.0, 0.0, 0.0), solarise_prob=(0.0, 0.0, 0.0))


def smooth(number: int, size: tuple[int, int] = (48, 32)) -> Image.Image:
    return photo(number, (9, 7)).resize(size, Image.Resampling.BICUBIC)


def pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image, dtype=np.int64)


@pytest.mark.parametrize("amount", [-0.4, -0.11, 0.0, 0.07, 0.4])
def test_changes_are_torchvisions(amount: float) -> None:
    view = smooth(0)
    for which, function in enumerate((peer.adjust_brightness, peer.adjust_contrast, peer.adjust_saturation)):
        assert np.array_equal(pixels(_jittered(view, which, amount)), pixels(function(view, 1 + amount)))
    assert np.array_equal(pixels(_jittered(view, 3, amount)), pixels(peer.adjust_hue(view, amount)))


def test_a_change_below_nothing_is_nothing() -> None:
    assert pixels(_jittered(smooth(0), 0, -1.5)).max() == 0


@pytest.mark.parametrize("name", ["global", "local"])
def test_blur_is_a_gaussian_of_its_radius(name: str) -> None:
    """Against torchvision's exact kernel; Pillow's is made of three boxes."""
    view = smooth(1)
    blurred = photometric(view, replace(NEVER, blur_prob=(1.0, 1.0, 1.0), blur_radius=(2.0, 2.0)), name, (0, 0, 0, 0))
    expected = GaussianBlur(17, (2.0, 2.0))(view)
    inside = (slice(8, -8), slice(8, -8))
    assert np.abs(pixels(blurred)[inside] - pixels(expected)[inside]).mean() < 1.5
    assert np.abs(pixels(blurred) - pixels(view)).mean() > 4


def test_grey_and_solarisation() -> None:
    view = smooth(2)
    grey = photometric(view, replace(NEVER, grey_prob=1.0), "local", (0, 0, 0, 0))
    assert np.array_equal(pixels(grey), pixels(peer.to_grayscale(view, 3)))
    inverted = photometric(view, replace(NEVER, solarise_prob=(0.0, 1.0, 0.0)), "global", (0, 0, 0, 1))
    assert np.array_equal(pixels(inverted), pixels(peer.solarize(view, 128)))
    assert photometric(view, replace(NEVER, solarise_prob=(0.0, 1.0, 0.0)), "global", (0, 0, 0, 2)) is view


@pytest.mark.parametrize(
    ("name", "view", "blur", "solarise"),
    [("global", 0, 1.0, 0.0), ("global", 1, 0.1, 0.2), ("global", 2, 1.0, 0.0), ("local", 3, 0.5, 0.0)],
)
def test_how_often(name: str, view: int, blur: float, solarise: float) -> None:
    """Shares of 3,000 draws, within 4.5 standard errors of DINO's probabilities. One change is told by its trace:
    a grey view has equal channels; solarised white is black; blur makes values between black and white."""
    half = Image.new("RGB", (8, 8), (0, 0, 0))
    half.paste((255, 0, 0), (0, 0, 4, 8))
    white, num = Image.new("RGB", (2, 2), (255, 255, 255)), 3000
    counts = dict.fromkeys(("jitter", "grey", "blur", "solarise"), 0)
    for index in range(num):
        turn = (0, 0, index, view)
        still = replace(CONFIG, jitter=(0.0, 0.0, 0.0, 0.0))
        counts["solarise"] += pixels(photometric(white, still, name, turn)).max() == 0
        seen = pixels(photometric(half, replace(still, solarise_prob=(0.0,) * 3, blur_radius=(1.0, 1.0)), name, turn))
        counts["grey"] += bool((seen[..., 0] == seen[..., 1]).all())
        counts["blur"] += len(np.unique(seen)) > 2
        dimmed = replace(CONFIG, jitter=(0.4, 0.0, 0.0, 0.0), grey_prob=0.0, solarise_prob=(0.0,) * 3)
        grey = Image.new("RGB", (2, 2), (100, 100, 100))
        counts["jitter"] += pixels(photometric(grey, dimmed, name, turn)).max() != 100
    expected = {"jitter": 0.8, "grey": 0.2, "blur": blur, "solarise": solarise}
    for change, share in expected.items():
        # A jitter of less than half a value in a hundred leaves no trace: 1.3 % of them.
        slack = 0.02 * (change == "jitter") + 4.5 * (share * (1 - share) / num) ** 0.5
        assert counts[change] / num == pytest.approx(share, abs=slack + 1e-9), change


def test_jitter_is_distributed_as_torchvisions() -> None:
    """Mean value, contrast, saturation and hue of 2,000 jittered views: Kolmogorov-Smirnov distance to ColorJitter."""
    view, num = smooth(3, (6, 5)), 2000
    always = replace(NEVER, jitter_prob=1.0)
    theirs = ColorJitter(*CONFIG.jitter)

    def traits(image: Image.Image) -> list[float]:
        rgb, hsv = pixels(image), pixels(image.convert("HSV"))
        return [rgb.mean(), rgb.std(), hsv[..., 1].mean(), hsv[0, 0, 0], rgb[2, 3, 1]]

    ours = np.array([traits(photometric(view, always, "global", (0, 0, index, 0))) for index in range(num)])
    with torch.random.fork_rng():
        torch.manual_seed(0)
        peers = np.array([traits(theirs(view)) for _ in range(num)])
    for a, b in zip(ours.T, peers.T, strict=True):
        grid = np.sort(np.concatenate([a, b]))
        distance = (
            np.abs(
                np.searchsorted(np.sort(a), grid, side="right") - np.searchsorted(np.sort(b), grid, side="right")
            ).max()
            / num
        )
        assert distance < 0.07  # by chance 1e-4


def test_the_four_changes_come_in_every_order(monkeypatch: pytest.MonkeyPatch) -> None:
    orders: list[list[int]] = []
    monkeypatch.setattr("silc.data.photometric._jittered", lambda view, which, amount: orders[-1].append(which) or view)
    for index in range(1200):
        orders.append([])
        photometric(smooth(0), replace(NEVER, jitter_prob=1.0), "local", (0, 0, index, 0))
    counts = Counter(map(tuple, orders))
    assert set(counts) == set(itertools.permutations(range(4)))
    assert max(counts.values()) < 90  # 50 on average, with a standard deviation of 7


def views(photometric: PhotometricConfig | None, **crops: Any) -> list[torch.Tensor]:
    config = CropConfig(**({"num_global": 2, "num_local": 3, "local_size": 12} | crops))
    made = MultiCrop(config, size=24, original=True, preprocess=Preprocess(24), photometric=photometric)
    return [part for part in made(smooth(4), (3, 1, 4)) if part is not None]


def test_views_change_and_the_whole_image_does_not() -> None:
    plain, off, on = views(None), views(PhotometricConfig()), views(CONFIG)
    assert all(torch.equal(a, b) for a, b in zip(plain, off, strict=True))
    assert torch.equal(plain[0], on[0])
    assert not torch.equal(plain[1], on[1])
    assert not torch.equal(plain[2], on[2])
    assert all(torch.equal(a, b) for a, b in zip(on, views(CONFIG), strict=True))
    # The crops are the same ones: without any change what remains is them.
    assert all(torch.equal(a, b) for a, b in zip(plain, views(NEVER), strict=True))


def test_a_view_depends_on_its_turn_and_number_only() -> None:
    on, more = views(CONFIG), views(CONFIG, num_global=4, num_local=9)
    assert torch.equal(on[1], more[1][:2])
    assert torch.equal(on[2], more[2][:3])
    # Another probability of one change leaves the others' draws alone.
    still, grey = replace(NEVER, grey_prob=0.5), replace(NEVER, grey_prob=0.5, jitter_prob=0.5)
    view = smooth(5)
    for index in range(40):
        turn = (0, 0, index, 0)
        was_grey = pixels(photometric(view, still, "local", turn)).std(axis=-1).max() == 0
        assert was_grey == (pixels(photometric(view, grey, "local", turn)).std(axis=-1).max() == 0)


def test_workers_and_ranks_change_nothing(shards: list[Path]) -> None:
    from tests.data.test_loader import assert_equal, loader

    def run(**settings: int) -> Any:
        made = loader(ShardPairs(shards), **settings)
        made._steps.views.photometric = CONFIG
        return list(made.batches(0, 3))

    assert_equal(run(), run(workers=2))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"grey_prob": 1.5}, "grey_prob is 1.5"),
        ({"blur_prob": (1.0, -0.1, 0.0)}, "blur_prob"),
        ({"jitter": (0.4, 0.4, 0.2, 0.6)}, "at most 0.5"),
        ({"blur_radius": (2.0, 1.0)}, "low <= high"),
    ],
)
def test_nonsense_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        PhotometricConfig(**fields)


def test_the_switch(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", "silc_c", "--data.photometric.on"]) == 0
    assert "data.photometric.on" in capsys.readouterr().out
