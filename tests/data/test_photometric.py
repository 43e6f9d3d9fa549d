"""Each change against Pillow's (by way of torchvision), the draws against DINO's own composition, and that draws have
names. Changes are made by views, by batches and on whichever device alike."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter
from torch.utils.data._utils.pin_memory import pin_memory
from torchvision.transforms import ColorJitter
from torchvision.transforms import functional as peer

from silc.cli import main
from silc.data.config import PhotometricConfig
from silc.data.photometric import DRAWN, JITTERS, draw, recolour
from silc.data.photometric import _recoloured as recoloured_at_once
from silc.data.shards import ShardPairs
from silc.preprocess import to_uint8
from silc.types import BadInput
from tests.data.conftest import photo
from tests.data.test_loader import assert_equal, loader, tensors

CONFIG = PhotometricConfig(on=True)
NEVER = replace(CONFIG, jitter_prob=0.0, grey_prob=0.0, blur_prob=(0.0, 0.0, 0.0), solarise_prob=(0.0, 0.0, 0.0))


def smooth(number: int, size: tuple[int, int] = (48, 32)) -> Image.Image:
    return photo(number, (9, 7)).resize(size, Image.Resampling.BICUBIC)


def pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image, dtype=np.int64)


def still(num: int = 1) -> np.ndarray:
    """What leaves views as they are."""
    drawn = np.zeros(num, DRAWN)
    drawn["order"] = -1
    return drawn


def jittered(view: Image.Image, which: int, amount: float) -> Image.Image:
    """One change alone: of brightness, contrast or saturation by a factor, or of the hue by 1/256 turns."""
    drawn = still()
    drawn["order"][0, 2] = which
    drawn["amounts"][0, which] = amount
    return made(view, drawn)


def made(view: Image.Image, drawn: np.ndarray) -> Image.Image:
    changed = recolour(to_uint8(view)[None, None], drawn[None])
    return Image.fromarray(changed[0, 0].permute(1, 2, 0).contiguous().numpy())


def photometric(view: Image.Image, config: PhotometricConfig, name: str, turn: tuple[int, ...]) -> Image.Image:
    """The view of the number that ends `turn`, changed as its draw says."""
    return made(view, draw(config, name, [turn[:-1]], turn[-1] + 1)[-1])


IMAGES = [
    smooth(0),
    photo(1, (33, 21)),
    smooth(2, (256, 256)),
    smooth(3, (97, 5)),
    photo(4, (1, 1)),
    photo(5, (64, 96)),
]


@pytest.mark.parametrize("view", IMAGES, ids=lambda image: "{}x{}".format(*image.size))
@pytest.mark.parametrize("factor", [0.0, 0.6, 0.89, 1.0, 1.07, 1.4, 3.0])
def test_jitters_are_pillows(view: Image.Image, factor: float) -> None:
    for which, function in enumerate((peer.adjust_brightness, peer.adjust_contrast, peer.adjust_saturation)):
        assert np.array_equal(pixels(jittered(view, which, factor)), pixels(function(view, factor)))


@pytest.mark.parametrize("view", IMAGES, ids=lambda image: "{}x{}".format(*image.size))
@pytest.mark.parametrize("steps", [-127, -25, -1, 0, 13, 25, 127])
def test_hue_is_pillows(view: Image.Image, steps: int) -> None:
    """Where a hue lies on the border of two of Pillow's 255, float32 may take the other: 6 values in a thousandth."""
    difference = np.abs(pixels(jittered(view, 3, steps)) - pixels(peer.adjust_hue(view, steps / 255 + 1e-9 * steps)))
    assert difference.max() <= 6
    assert (difference > 0).mean() < 2e-3


def test_hue_of_every_corner_of_the_cube() -> None:
    """Greys, pure and mixed colours, black, white; values next to them."""
    values = np.array(list(itertools.product((0, 1, 127, 128, 254, 255), repeat=3)), dtype=np.uint8)
    view = Image.fromarray(values.reshape(12, 18, 3))
    for steps in (-40, 0, 7):
        difference = np.abs(
            pixels(jittered(view, 3, steps)) - pixels(peer.adjust_hue(view, steps / 255 + 1e-9 * steps))
        )
        assert difference.max() <= 6
        assert (difference > 0).mean() < 0.01


@pytest.mark.parametrize("name", ["global", "local"])
@pytest.mark.parametrize("radius", [0.1, 0.5, 1.0, 1.41, 2.0, 3.7])
def test_blur_is_pillows(name: str, radius: float) -> None:
    """Three boxes in one pass: Pillow rounds after each, and lets the border's own blur stand for what is beyond it."""
    config = replace(NEVER, blur_prob=(1.0, 1.0, 1.0), blur_radius=(radius, radius))
    for number, size in enumerate([(64, 48), (97, 33), (256, 256), (5, 3)]):
        view = photo(number, (-(-size[0] // 4), -(-size[1] // 4))).resize(size, Image.Resampling.BICUBIC)
        blurred = photometric(view, config, name, (0, 0, 0, 0))
        difference = np.abs(pixels(blurred) - pixels(view.filter(ImageFilter.GaussianBlur(radius))))
        reach = 3 * math.ceil(radius) + 3
        assert difference[reach:-reach, reach:-reach].max(initial=0) <= 3
        if min(size) > 2 * reach:
            assert difference.mean() < 1.2
            assert difference.max() <= 20
            assert radius < 1 or np.abs(pixels(blurred) - pixels(view)).mean() > 5 * difference.mean()


def test_grey_and_solarisation() -> None:
    view = smooth(2)
    grey = photometric(view, replace(NEVER, grey_prob=1.0), "local", (0, 0, 0, 0))
    assert np.array_equal(pixels(grey), pixels(peer.to_grayscale(view, 3)))
    inverted = photometric(view, replace(NEVER, solarise_prob=(0.0, 1.0, 0.0)), "global", (0, 0, 0, 1))
    assert np.array_equal(pixels(inverted), pixels(peer.solarize(view, 128)))
    even = photometric(view, replace(NEVER, solarise_prob=(0.0, 1.0, 0.0)), "global", (0, 0, 0, 2))
    assert np.array_equal(pixels(even), pixels(view))


@pytest.mark.parametrize("side", [7, 24])
def test_at_once_as_one_by_one(side: int) -> None:
    """As an accelerator does it, in any place of a batch, channels last or not."""
    for name, num_views in (("global", 2), ("local", 5)):
        views = torch.stack(
            [torch.stack([to_uint8(smooth(17 * v + b, (side, side))) for b in range(12)]) for v in range(num_views)]
        )
        drawn = draw(CONFIG, name, [(0, 1, index) for index in range(12)], num_views)
        each = recolour(views, drawn)
        assert each.shape == views.shape
        assert not torch.equal(each, views)
        at_once = recoloured_at_once(views.flatten(0, 1), drawn.reshape(-1)).unflatten(0, drawn.shape)
        assert torch.equal(each, at_once)
        last = views.movedim(2, -1).contiguous().movedim(-1, 2)
        assert torch.equal(recolour(last, drawn), each)


@pytest.mark.parametrize(
    ("name", "view", "blur", "solarise"),
    [("global", 0, 1.0, 0.0), ("global", 1, 0.1, 0.2), ("global", 2, 1.0, 0.0), ("local", 3, 0.5, 0.0)],
)
def test_how_often(name: str, view: int, blur: float, solarise: float) -> None:
    """Shares of 3,000 draws, within 4.5 standard errors of DINO's probabilities."""
    num = 3000
    drawn = draw(CONFIG, name, [(0, 0, index) for index in range(num)], view + 1)[view]
    counts = {
        "jitter": (drawn["order"] >= 0).all(1).sum(),
        "grey": drawn["grey"].sum(),
        "blur": (drawn["blur"] > 0).sum(),
        "solarise": drawn["solarise"].sum(),
    }
    for change, share in {"jitter": 0.8, "grey": 0.2, "blur": blur, "solarise": solarise}.items():
        slack = 4.5 * (share * (1 - share) / num) ** 0.5
        assert counts[change] / num == pytest.approx(share, abs=slack + 1e-9), change
    radii = drawn["blur"][drawn["blur"] > 0]
    assert len(radii) == 0 or (0.1 <= radii.min() < 0.2 and 1.9 < radii.max() <= 2.0)


def test_jitter_is_distributed_as_torchvisions() -> None:
    """Mean value, contrast, saturation and hue of 2,000 jittered views: Kolmogorov-Smirnov distance to ColorJitter."""
    view, num = smooth(3, (6, 5)), 2000
    always = replace(NEVER, jitter_prob=1.0)
    theirs = ColorJitter(*CONFIG.jitter)

    def traits(image: Image.Image) -> list[float]:
        rgb, hsv = pixels(image), pixels(image.convert("HSV"))
        return [rgb.mean(), rgb.std(), hsv[..., 1].mean(), hsv[0, 0, 0], rgb[2, 3, 1]]

    drawn = draw(always, "global", [(0, 0, index) for index in range(num)], 1)
    changed = recolour(to_uint8(view).expand(1, num, -1, -1, -1), drawn)[0].permute(0, 2, 3, 1).contiguous().numpy()
    ours = np.array([traits(Image.fromarray(image)) for image in changed])
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


def test_the_four_changes_come_in_every_order() -> None:
    always = replace(NEVER, jitter_prob=1.0)
    drawn = draw(always, "local", [(0, 0, index) for index in range(1200)], 1)
    counts = Counter(map(tuple, drawn["order"][0].tolist()))
    assert set(counts) == set(itertools.permutations(range(4)))
    assert max(counts.values()) < 90  # 50 on average, with a standard deviation of 7


def test_the_drawn_order_is_the_one_taken() -> None:
    view, drawn = smooth(6), still()
    drawn["order"], drawn["amounts"] = (2, 0, 3, 1), (0.7, 1.3, 0.5, 20)
    expected = peer.adjust_brightness(peer.adjust_saturation(view, 0.5), 0.7)
    expected = peer.adjust_contrast(peer.adjust_hue(expected, 20.5 / 255), 1.3)
    assert np.abs(pixels(made(view, drawn)) - pixels(expected)).mean() < 0.05
    assert [change.__name__ for change in JITTERS] == ["_brightness", "_contrast", "_saturation", "_hue"]


def test_a_view_depends_on_its_turn_and_number_only() -> None:
    turns = [(3, 1, 4), (4, 1, 4), (3, 2, 4), (3, 1, 5)]
    for name in ("global", "local"):
        drawn, more = draw(CONFIG, name, turns[:2], 3), draw(CONFIG, name, turns, 9)
        assert np.array_equal(drawn, more[:3, :2])
        assert np.array_equal(draw(CONFIG, name, turns[2:], 9), more[:, 2:])
        assert len(np.unique(more["amounts"][..., 0])) == more.size
    # Another probability of one change leaves the others' draws alone.
    grey, jitter = replace(NEVER, grey_prob=0.5), replace(NEVER, grey_prob=0.5, jitter_prob=0.5)
    some, others = draw(grey, "local", turns, 40), draw(jitter, "local", turns, 40)
    assert np.array_equal(some["grey"], others["grey"])
    assert (some["order"] != others["order"]).any()


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
def test_workers_and_ranks_and_where_it_is_done_change_nothing(shards: list[Path]) -> None:
    alone = batches(shards, CONFIG)
    assert_equal(alone, batches(shards, CONFIG, workers=2))
    halves = [batches(shards, CONFIG, rank=rank, world_size=2) for rank in range(2)]
    for whole, *parts in zip(alone, *halves, strict=True):
        assert torch.equal(whole.views.locals, torch.cat([part.views.locals for part in parts], dim=1))
    # What an accelerator is left to do, done after the batch has come.
    late = batches(shards, CONFIG, workers=1, device=torch.device("meta"))
    assert not torch.equal(late[0].views.globals, alone[0].views.globals)
    assert_equal(alone, [batch.to("cpu") for batch in late])


def test_torch_pins_a_batch_that_is_coloured_late(shards: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """As its loader does for a GPU: every tensor, and what is to be done to the colours stays with them."""
    (batch,) = batches(shards, CONFIG, device=torch.device("meta"))[:1]
    places = {tensor.data_ptr() for tensor in tensors(batch)}
    monkeypatch.setattr(torch.Tensor, "pin_memory", torch.Tensor.clone)
    pinned = pin_memory(batch)
    assert not places & {tensor.data_ptr() for tensor in tensors(pinned)}
    assert_equal([batch.to("cpu")], [pinned.to("cpu")])
    assert not torch.equal(pinned.views.globals, pinned.to("cpu").views.globals)


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
