"""Each change against torchvision's own transforms, the draws against DINO's composition, and that draws have names."""

from __future__ import annotations

import itertools
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import ColorJitter
from torchvision.transforms import functional as peer

from silc.cli import main
from silc.data.config import PhotometricConfig
from silc.data.photometric import DRAWS, JITTERS, blurred, changes, recolour, torchvision
from silc.data.shards import ShardPairs
from silc.data.streams import stream
from silc.errors import BadInput
from silc.preprocess import to_uint8
from tests.data.conftest import photo
from tests.data.test_loader import assert_equal, loader

CONFIG = PhotometricConfig(on=True)
NEVER = replace(CONFIG, jitter_prob=0.0, grey_prob=0.0, blur_prob=(0.0, 0.0, 0.0), solarise_prob=(0.0, 0.0, 0.0))
JITTERED = replace(NEVER, jitter_prob=1.0)
TURN = (3, 1, 4)


def smooth(number: int, size: tuple[int, int] = (48, 32)) -> Image.Image:
    return photo(number, (9, 7)).resize(size, Image.Resampling.BICUBIC)


def pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image, dtype=np.int64)


def coloured(view: Image.Image, config: PhotometricConfig, name: str, number: int) -> np.ndarray:
    """The view of this number of TURN, in the memory that a loader gives it: channels last."""
    views = to_uint8(view).expand(number + 1, -1, -1, -1).contiguous(memory_format=torch.channels_last)
    recolour(config, name, TURN, views)
    return views[number].permute(1, 2, 0).numpy().astype(np.int64)


def drawn(config: PhotometricConfig, kind: int, num: int = 3000) -> list[list[tuple[str, float]]]:
    """Names and amounts of what is done to so many views, each the second of its visit."""
    draws = (stream("photometric-global", 0, 0, index).random((2, DRAWS))[1] for index in range(num))
    return [[(change.__name__, amount) for change, amount in changes(config, kind, row)] for row in draws]


def shares(views: list[list[tuple[str, float]]]) -> Counter[str]:
    return Counter(name for view in views for name, _ in view)


@pytest.mark.parametrize("number", range(6))
def test_jitter_is_torchvisions(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """`ColorJitter` itself, given the order and amounts that the documented row of the stream says."""
    row = stream("photometric-local", *TURN).random((6, DRAWS))[number]
    brightness, contrast, saturation = 1 + (2 * row[4:7] - 1) * (0.4, 0.4, 0.2)
    hue, order = (2 * row[7] - 1) * 0.1, torch.from_numpy(row[8:12].argsort())
    monkeypatch.setattr(ColorJitter, "get_params", lambda *_: (order, brightness, contrast, saturation, hue))
    for view in (smooth(number), photo(number, (33, 21)), photo(number, (1, 1))):
        expected = pixels(ColorJitter(0.4, 0.4, 0.2, 0.1)(view))
        assert np.array_equal(coloured(view, JITTERED, "local", number), expected)


def test_grey_and_solarisation_are_torchvisions() -> None:
    view = smooth(2)
    grey = coloured(view, replace(NEVER, grey_prob=1.0), "local", 0)
    assert np.array_equal(grey, pixels(peer.to_grayscale(view, 3)))
    inverted = coloured(view, replace(NEVER, solarise_prob=(0.0, 1.0, 0.0)), "global", 1)
    assert np.array_equal(inverted, pixels(peer.solarize(view, 128)))
    even = coloured(view, replace(NEVER, solarise_prob=(0.0, 1.0, 0.0)), "global", 2)
    assert np.array_equal(even, pixels(view))


@pytest.mark.parametrize("radius", [0.5, 1.0, 1.41, 2.0, 3.7])
def test_blur_is_nearly_torchvisions(radius: float) -> None:
    """Pillow's has three boxes for the Gaussian; the radius is its standard deviation in both."""
    view = photo(1, (24, 16)).resize((96, 64), Image.Resampling.BICUBIC)
    config = replace(NEVER, blur_prob=(1.0, 1.0, 1.0), blur_radius=(radius, radius))
    theirs = pixels(peer.gaussian_blur(view, 2 * round(4 * radius) + 1, radius))
    ours = coloured(view, config, "global", 0)
    reach = 12
    difference = np.abs(ours - theirs)[reach:-reach, reach:-reach].mean()
    assert difference < 1.5
    assert radius < 1 or np.abs(ours - pixels(view)).mean() > 5 * difference


def test_blur_takes_any_view_and_no_radius_at_all() -> None:
    config = replace(NEVER, blur_prob=(1.0, 1.0, 1.0), blur_radius=(0.0, 0.0))
    assert np.array_equal(coloured(smooth(0), config, "local", 0), pixels(smooth(0)))
    assert coloured(photo(0, (1, 1)), replace(config, blur_radius=(2.0, 2.0)), "local", 0).shape == (1, 1, 3)


@pytest.mark.parametrize(("kind", "blur", "solarise"), [(0, 1.0, 0.0), (1, 0.1, 0.2), (2, 0.5, 0.0)])
def test_how_often(kind: int, blur: float, solarise: float) -> None:
    """Shares of 3,000 draws, within 4.5 standard errors of DINO's probabilities, in DINO's order."""
    views = drawn(CONFIG, kind)
    counts = shares(views)
    expected = dict.fromkeys((change.__name__ for change in JITTERS), 0.8)
    expected |= {"rgb_to_grayscale": 0.2, "blurred": blur, "solarize": solarise}
    for change, share in expected.items():
        slack = 4.5 * (share * (1 - share) / len(views)) ** 0.5
        assert counts[change] / len(views) == pytest.approx(share, abs=slack + 1e-9), change
    place = {name: max(0, number - 3) for number, name in enumerate(expected)}
    assert all([place[name] for name, _ in view] == sorted(place[name] for name, _ in view) for view in views)
    radii = [amount for view in views for name, amount in view if name == "blurred"]
    assert 0.1 <= min(radii) < 0.2
    assert 1.9 < max(radii) <= 2.0


def test_amounts_are_distributed_as_torchvisions() -> None:
    """2,000 draws of each: Kolmogorov-Smirnov distance to what `ColorJitter` draws for the same settings."""
    num, theirs = 2000, ColorJitter(0.4, 0.4, 0.2, 0.1)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        ranges = (theirs.brightness, theirs.contrast, theirs.saturation, theirs.hue)
        peers = np.array([ColorJitter.get_params(*ranges)[1:] for _ in range(num)])
    views = map(dict, drawn(JITTERED, 2, num))
    ours = np.array([[view[change.__name__] for change in JITTERS] for view in views])
    for a, b in zip(np.sort(ours.T), np.sort(peers.T), strict=True):
        grid = np.concatenate([a, b])
        distance = np.abs(np.searchsorted(a, grid, side="right") - np.searchsorted(b, grid, side="right")).max() / num
        assert distance < 0.07  # by chance 1e-4


def test_no_factor_is_below_zero() -> None:
    amounts = [amount for view in drawn(replace(JITTERED, jitter=(3.0, 3.0, 3.0, 0.5)), 2, 100) for _, amount in view]
    assert min(amounts) < 0  # the hue's alone


def test_the_four_changes_come_in_every_order() -> None:
    counts = Counter(tuple(name for name, _ in view) for view in drawn(JITTERED, 2, 1200))
    assert set(counts) == set(itertools.permutations(change.__name__ for change in JITTERS))
    assert max(counts.values()) < 90  # 50 on average, with a standard deviation of 7


def test_runs_from_before_go_on_with_their_draws() -> None:
    """As the version of 2026-11-28 drew them, whose changes were batched and its own."""
    first, _, third = stream("photometric-local", 5, 2, 9).random((3, DRAWS))
    hue = JITTERS[3]
    assert [(change, pytest.approx(amount)) for change, amount in changes(CONFIG, 2, first)] == [(blurred, 1.0257077)]
    chosen = dict(changes(CONFIG, 2, third))
    assert list(chosen) == [hue, JITTERS[2], JITTERS[0], JITTERS[1], torchvision.rgb_to_grayscale, blurred]
    assert [chosen[change] for change in JITTERS[:3]] == pytest.approx([1.3213307, 0.68879455, 0.9553007])
    assert int(255 * chosen[hue]) == -24
    assert chosen[blurred] == pytest.approx(1.505011)


def test_a_view_depends_on_its_turn_and_number_only() -> None:
    few, more = (to_uint8(smooth(0)).expand(num, -1, -1, -1).clone() for num in (3, 9))
    for views in (few, more):
        recolour(CONFIG, "local", TURN, views)
    assert torch.equal(few, more[:3])
    assert len({view.numpy().tobytes() for view in more}) == len(more)
    # Another probability of one change leaves the others' draws alone.
    grey, jitter = (drawn(replace(NEVER, grey_prob=0.5, jitter_prob=share), 2, 40) for share in (0.0, 0.5))
    assert [("rgb_to_grayscale", 3) in view for view in grey] == [("rgb_to_grayscale", 3) in view for view in jitter]
    assert grey != jitter


def batches(shards: list[Path], photometric: PhotometricConfig | None, **settings: Any) -> Any:
    return list(loader(ShardPairs(shards), photometric=photometric, **settings).batches(0, 3))


def test_views_change_and_the_whole_image_does_not(shards: list[Path]) -> None:
    plain, on = batches(shards, None), batches(shards, CONFIG)
    assert_equal(plain, batches(shards, PhotometricConfig()))
    # The crops are the same ones: without any change what remains is them.
    assert_equal(plain, batches(shards, NEVER))
    for before, after in zip(plain, on, strict=True):
        assert torch.equal(before.views.original, after.views.original)
        assert not torch.equal(before.views.globals, after.views.globals)
        assert not torch.equal(before.views.locals, after.views.locals)
        assert torch.equal(before.text, after.text)


@pytest.mark.timeout(60)
def test_workers_and_ranks_change_nothing(shards: list[Path]) -> None:
    alone = batches(shards, CONFIG)
    assert_equal(alone, batches(shards, CONFIG, workers=2))
    halves = [batches(shards, CONFIG, rank=rank, world_size=2) for rank in range(2)]
    for whole, *parts in zip(alone, *halves, strict=True):
        assert torch.equal(whole.views.locals, torch.cat([part.views.locals for part in parts], dim=1))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"grey_prob": 1.5}, "grey_prob is 1.5"),
        ({"blur_prob": (1.0, -0.1, 0.0)}, "blur_prob"),
        ({"jitter": (0.4, 0.4, 0.2, 0.6)}, "at most 0.5"),
        ({"blur_radius": (2.0, 1.0)}, "needed the lower number first"),
    ],
)
def test_nonsense_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        PhotometricConfig(**fields)


def test_the_switch(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", "silc_c", "--data.photometric.on"]) == 0
    assert "data.photometric.on" in capsys.readouterr().out


def test_torchvision_is_loaded_for_colours_alone(shards: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "silc.data.photometric", None)
    loader(ShardPairs(shards), photometric=PhotometricConfig())
    with pytest.raises(ImportError, match="photometric"):
        loader(ShardPairs(shards), photometric=CONFIG)
