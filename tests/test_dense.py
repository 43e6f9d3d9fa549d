"""Dense features of whole images, and pictures of their components."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

import silc
from silc.config import Config
from silc.dense import component_pictures, principal_components, scaled_to_patches
from silc.errors import BadInput
from silc.predict import Model
from silc.pretraining import run


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, small: Callable[..., Config]) -> Model:
    return silc.load(run.train(small("silc_c", tmp_path_factory.mktemp("dense") / "run", duration="2 steps")))


def noise(width: int, height: int, seed: int) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def test_sides_are_whole_patches() -> None:
    for width, height, size, patch in ((640, 427, 224, 16), (427, 640, 224, 16), (100, 100, 50, 16), (1000, 9, 8, 8)):
        wide, high = scaled_to_patches(width, height, size, patch)
        assert wide % patch == high % patch == 0
        assert abs(min(wide, high) - size) <= patch / 2
        assert abs(wide - width * size / min(width, height)) <= patch / 2
        assert abs(high - height * size / min(width, height)) <= patch / 2


def test_several_are_as_one_at_a_time(model: Model) -> None:
    images = [noise(40, 40, 0), noise(41, 40, 1), noise(80, 40, 2), noise(30, 70, 3), noise(80, 40, 4)]
    together = model.dense(images, size=24, batch_size=4)
    assert [tuple(one.shape) for one in together] == [(3, 3, 32), (3, 3, 32), (3, 6, 32), (7, 3, 32), (3, 6, 32)]
    for image, features in zip(images, together, strict=True):
        torch.testing.assert_close(model.dense(image, size=24)[0], features, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(features.norm(dim=-1), torch.ones(features.shape[:2]))


def test_they_are_the_towers_at_that_size(model: Model) -> None:
    """A square image at the model's own size gives what `features` gives; at another, what the tower gives there."""
    image = noise(50, 50, 0)
    own = model.features(image)
    torch.testing.assert_close(model.dense(image)[0], own.aligned[0])
    torch.testing.assert_close(model.dense(image, readout="tower")[0], own.patches[0])
    wide = noise(96, 48, 1)
    pixels = model.preprocess.normalize(torch.from_numpy(np.array(wide)).permute(2, 0, 1)[None])
    for readout in model.readouts:
        expected = F.normalize(model.visual.dense(pixels, readout).detach(), dim=-1)[0]
        torch.testing.assert_close(model.dense(wide, size=48, readout=readout)[0], expected)


def test_what_cannot_be_is_told(model: Model) -> None:
    for size in (0, 7):
        with pytest.raises(BadInput, match=f"size {size} is less than a patch of 8"):
            model.dense(noise(9, 9, 0), size=size)
    with pytest.raises(BadInput, match=r"no dense readout 'tokenz'; there are: .*tower"):
        model.pca(noise(9, 9, 0), readout="tokenz")
    with pytest.raises(BadInput, match="is too thin: with a shorter side of 512"):
        model.dense(Image.new("RGB", (900, 1)), size=512)


def test_components_are_the_singular_vectors() -> None:
    """Against numpy's SVD of all patches, less their mean; the largest weight of each is positive."""
    torch.manual_seed(0)
    maps = [torch.randn(4, 6, 16) * torch.arange(1, 17), torch.randn(5, 3, 16) + 1]
    found = principal_components(maps)
    assert [one.shape for one in found] == [(4, 6, 3), (5, 3, 3)]
    patches = np.concatenate([one.reshape(-1, 16).double().numpy() for one in maps])
    centred = patches - patches.mean(axis=0)
    _, _, rows = np.linalg.svd(centred, full_matrices=False)
    rows = np.stack([row * np.sign(row[np.abs(row).argmax()]) for row in rows[:3]])
    np.testing.assert_allclose(np.concatenate([one.reshape(-1, 3) for one in found]), centred @ rows.T, atol=1e-9)


def test_colours_are_shared_and_the_same_each_time(model: Model) -> None:
    images = [noise(60, 40, 0), noise(30, 50, 1)]
    pictures = model.pca(images, size=32)
    assert [picture.size for picture in pictures] == [(60, 40), (30, 50)]
    again = model.pca(images, size=32)
    assert all(np.array_equal(a, b) for a, b in zip(pictures, again, strict=True))
    both = model.pca([images[0], images[0]], size=32)
    assert np.array_equal(both[0], both[1])
    alone = model.pca(images[0], size=32)[0]
    assert not np.array_equal(alone, pictures[0])


def test_patches_that_are_alike_are_grey_and_few_components_suffice() -> None:
    (grey,) = component_pictures([torch.ones(2, 2, 8)], [(4, 4)])
    assert set(np.unique(grey)) <= {127, 128}
    (red,) = component_pictures([torch.tensor([[[-1.0], [1.0]]])], [(2, 1)])
    assert np.asarray(red)[0].tolist() == [[0, 128, 128], [255, 128, 128]]
