"""Decoders that look at all windows together are their authors' to 1e-5.

Not compared is the fixture's `out_refine1`, LPOSS+: a second propagation over pixels, which no decoder here has.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from silc.errors import BadInput
from silc.eval import joint
from silc.eval.config import EvalConfig
from silc.eval.cosine import Cosine
from silc.eval.decoders import predictor_of
from silc.eval.joint import JointPredictor
from silc.eval.score_map import Box, ScoreMap, Window
from silc.eval.sliding import score_maps, scorer_of, windows
from silc.loading import load as load_model
from silc.predict import Model


def load(path: Path) -> dict[str, np.ndarray]:
    with np.load(path, allow_pickle=False) as file:
        return dict(file)


def double(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(array).double()


@pytest.fixture
def radseg(silc_data: Path) -> dict[str, np.ndarray]:
    return load(silc_data / "oracles/decoders/radseg.npz")


@pytest.fixture
def lposs(silc_data: Path) -> dict[str, np.ndarray]:
    return load(silc_data / "oracles/decoders/lposs.npz")


@pytest.fixture
def scene_model(finished: Callable[..., Path]) -> Model:
    return load_model(finished("clip"))


class Given(joint.Scga):
    """Windows' features are what the fixture has."""

    def __init__(self) -> None:
        pass


def test_radseg_from_the_windows_on(radseg) -> None:
    """150 x 200 pixels, scaled to 192 x 256, in windows of 96 by 64, patches of 16."""
    boxes = windows(192, 256, 96, 64)
    features = double(radseg["window_feats"])
    seen = [Window(box, own, 96, 96) for box, own in zip(boxes, features, strict=True)]
    whole = joint.stitched(seen)
    torch.testing.assert_close(whole.patches, double(radseg["feat_map"])[0], atol=1e-5, rtol=0)
    assert (whole.height, whole.width, whole.box) == (192, 256, (0, 0, 192, 256))
    gathered = joint.aggregated(whole.patches.flatten(1).T).T.unflatten(1, (12, 16))
    torch.testing.assert_close(gathered, double(radseg["scga"])[0], atol=1e-5, rtol=0)
    (joined,) = Given().joined(seen, F.normalize(double(radseg["text"]), dim=-1).float())
    torch.testing.assert_close(joined.patches.double(), double(radseg["probs_grid"])[0], atol=1e-5, rtol=0)


def test_radsegs_labels_where_it_leaves_no_class_out(radseg) -> None:
    """Theirs drops classes below a threshold, and pixels; where neither strikes, its label is the plain argmax."""
    config = json.loads(str(radseg["config"]))
    probabilities = double(radseg["probs_grid"])
    size = tuple(radseg["orig_size"].tolist())
    scores = F.interpolate(probabilities, size, mode="bilinear", align_corners=False)[0]
    kept = scores.flatten(1).max(dim=1).values >= config["prompt_denoising_thresh"]
    best = scores.argmax(0)
    theirs = torch.from_numpy(radseg["seg_pred"][0, 0]).long()
    plain = kept[best] & (scores.max(0).values >= config["prediction_thresh"])
    assert plain.any()
    assert not plain.all()  # or there would be no difference to speak of
    assert torch.equal(theirs[plain], best[plain] + 1)
    zeroed = torch.where(kept[:, None, None], scores, 0)  # its map of no class is 0, too
    torch.testing.assert_close(double(radseg["seg_probs"])[0], F.pad(zeroed, (0, 0, 0, 0, 1, 0)), atol=1e-5, rtol=0)


def test_the_mean_of_cosines_is_one_images_own(silc_data: Path) -> None:
    """RADSeg's runs over the batch: alone an image is theirs, beside another one it is ours that stays."""
    fixture = load(silc_data / "oracles/decoders/clip_vit.npz")
    for size in ("48x48", "32x72"):
        patches = double(fixture[f"{size}/sclip"])[:, 1:]
        alone = joint.aggregated(patches[0]).T.reshape(fixture[f"{size}/scga_b1"].shape[1:])
        torch.testing.assert_close(alone, double(fixture[f"{size}/scga_b1"])[0], atol=2e-4, rtol=0)
        assert (alone - double(fixture[f"{size}/scga_b2"])[0]).abs().max() > 0.01


@pytest.mark.parametrize("kind", ["slide", "whole"])
def test_lposs(lposs, kind: str) -> None:
    config = json.loads(str(lposs["config"]))
    graph, clip = (double(lposs[f"{kind}_{name}"]) for name in ("dino", "clip"))
    num, high, wide, _ = graph.shape
    sides = (64, 64) if kind == "slide" else (96, 80)
    boxes = [
        Box(int(y1), int(x1), int(y1) + sides[0], int(x1) + sides[1]) for y1, _, x1, _ in lposs[f"{kind}_locations"]
    ]
    # The last window of theirs reaches 64 pixels from its corner on, as all do.
    frames = [Window(box, torch.zeros(1, high, wide).double(), high * 16, wide * 16) for box in boxes]
    places = torch.cat([joint.centres(frame) for frame in frames])
    system = joint.laplacian(F.normalize(graph.flatten(0, 2), dim=-1), places, neighbours=config["k"])
    torch.testing.assert_close(system, double(lposs[f"{kind}_laplacian"]), atol=1e-6, rtol=0)
    cosines = F.normalize(clip.flatten(0, 2), dim=-1) @ double(lposs["clf"]).T
    torch.testing.assert_close(cosines, double(lposs[f"{kind}_clip_preds"]), atol=1e-5, rtol=0)
    found = joint.propagated(system, cosines)
    torch.testing.assert_close(found, double(lposs[f"{kind}_lp_preds"]), atol=1e-5, rtol=0)
    exact = torch.linalg.solve(system, cosines)
    assert (found - exact).abs().max() > 1e-4  # ten steps do not get there
    torch.testing.assert_close(joint.propagated(system, cosines, steps=200), exact, atol=1e-4, rtol=0)
    # Stitched, and brought to the truth's size; theirs has no window's pixels in between where there is one window.
    shares = found.unflatten(0, (num, high, wide)).permute(0, 3, 1, 2)
    seen = [Window(box, own, *sides) for box, own in zip(boxes, shares, strict=True)]
    stitched = ScoreMap(seen, 96, 80).whole()[None] if num > 1 else shares
    theirs = double(lposs[f"{kind}_out_refine0"])
    resized = F.interpolate(stitched, theirs.shape[-2:], mode="bilinear", align_corners=False)
    torch.testing.assert_close(resized, theirs, atol=1e-5, rtol=0)
    if num > 1:  # Theirs merges one window's words before it is resized, ours each pixel's.
        words_of_background_are_merged(resized, double(lposs[f"{kind}_out_bgmerge"]))


def words_of_background_are_merged(scores: torch.Tensor, merged: torch.Tensor) -> None:
    """Of three words theirs keeps the best score; `names.Wording` takes the owner of the best word."""
    best = torch.cat([scores[:, :3].amax(dim=1, keepdim=True), scores[:, 3:]], dim=1)
    torch.testing.assert_close(best, merged, atol=1e-5, rtol=0)
    assert torch.equal(torch.tensor([0, 0, 0, 1, 2])[scores.argmax(dim=1)], merged.argmax(dim=1))


def test_centres_of_patches_are_pixels_of_the_image() -> None:
    window = Window(Box(32, 16, 80, 64), torch.zeros(1, 4, 4), 64, 64, top=8, left=8)
    expected = [(y, x) for y, x in product((32, 48, 64, 80), (16, 32, 48, 64))]
    assert joint.centres(window).tolist() == [list(map(float, one)) for one in expected]


def test_a_constant_map_stays_constant() -> None:
    features = torch.randn(1, 6).expand(20, 6)
    torch.testing.assert_close(joint.aggregated(features), features)
    assert joint.aggregated(torch.zeros(20, 6)).isfinite().all()
    graph = F.normalize(torch.randn(30, 5), dim=-1)
    system = joint.laplacian(graph, torch.rand(30, 2) * 50)
    found = joint.propagated(system, torch.full((30, 3), 0.3))
    assert torch.equal(found[:, 0], found[:, 1])


def test_two_images_in_a_batch_are_scored_as_alone(scene_model) -> None:
    """Windows of images are computed together and joined apart."""
    rng = np.random.default_rng(0)
    images = [Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)) for size in ((40, 60), (64, 40))]
    for decoder in ("scga", "radseg", "lposs"):
        scorer = scorer_of(scene_model, ["red dots", "blue checks"], EvalConfig(decoder=decoder))
        assert isinstance(scorer.predictor, JointPredictor)
        together = [found.whole() for found in score_maps(images, scorer)]
        for image, both in zip(images, together, strict=True):
            (alone,) = (found.whole() for found in score_maps([image], scorer))
            torch.testing.assert_close(both, alone, atol=1e-4, rtol=1e-4)
            assert both.isfinite().all()


def test_what_does_not_go_with_joined_windows_is_refused(scene_model) -> None:
    for fields in ({"pamr": True}, {"refine": "pamr-image"}, {"background": 0.5}):
        with pytest.raises(BadInput, match="decoder lposs joins windows; leave out"):
            predictor_of(scene_model, EvalConfig(decoder="lposs", **fields))
    assert not isinstance(predictor_of(scene_model, EvalConfig()), JointPredictor)
    assert isinstance(predictor_of(scene_model, EvalConfig()), Cosine)


def test_more_neighbours_than_patches_are_refused(scene_model) -> None:
    """A number that somebody gave is not cut down in silence; LPOSS's own 400 is all patches where there are fewer."""
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8))

    def scored(**fields):
        scorer = scorer_of(scene_model, ["red dots", "blue checks"], EvalConfig(decoder="lposs", **fields))
        return next(score_maps([image], scorer)).whole(), scorer.predictor.record

    most = 8  # windows of 16 x 16 pixels, 8 apart, of 4 patches each: 2 of them
    usual, record = scored()
    assert "neighbours" not in record
    given, record = scored(neighbours=most)
    assert record["neighbours"] == most
    torch.testing.assert_close(given, usual)
    assert not torch.allclose(scored(neighbours=2)[0], usual, atol=1e-6)
    with pytest.raises(BadInput, match=rf"eval.neighbours is {most + 1} and an image has {most} patches; give at most"):
        scored(neighbours=most + 1)


@pytest.mark.parametrize("decoder", ["scga", "radseg", "lposs"])
def test_an_image_of_too_many_patches_is_told(
    scene_model: Model, monkeypatch: pytest.MonkeyPatch, decoder: str
) -> None:
    """A matrix of all pairs would take what memory there is."""
    scorer = scorer_of(scene_model, ["a", "b"], EvalConfig(decoder=decoder))
    image = Image.new("RGB", (64, 64))
    (whole,) = score_maps([image], scorer)
    assert whole.num_classes == 2
    monkeypatch.setattr(joint, "MOST_PATCHES", 3)
    with pytest.raises(
        BadInput, match=r"one image has [\d,]+ patches, the limit is 3; use a protocol of a lower resolution"
    ):
        next(score_maps([image], scorer))
