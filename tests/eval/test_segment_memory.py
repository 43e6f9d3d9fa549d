"""Memory of segmentation: flat in images, and at 847 classes that of patches and a tile, not of all classes' pixels."""

from __future__ import annotations

import gc
import subprocess
import sys
import weakref

import numpy as np
import pytest
from PIL import Image

from silc.eval import score_map
from silc.eval.config import EvalConfig
from silc.eval.datasets import Lazy, SegmentationSet
from silc.eval.segment import ZeroShotSegmentation
from tests.largest import Largest

HIGH, WIDE = 64, 96


def many(num_images, num_classes, made):
    """Images and labels that are made when they are looked at; `made` hears of each image."""

    def image(index):
        noise = np.random.default_rng(index).integers(0, 256, (HIGH, WIDE, 3), dtype=np.uint8)
        made.append(weakref.ref(drawn := Image.fromarray(noise)))
        return drawn

    def label(index):
        return np.random.default_rng(index).integers(0, num_classes, (HIGH, WIDE)).astype(np.uint16)

    indices = range(num_images)
    names = [f"class {i}" for i in range(num_classes)]
    return SegmentationSet("many", names, [str(i) for i in indices], Lazy(indices, image), Lazy(indices, label))


def scored(model, num_images, num_classes, decoder="cosine"):
    """The largest tensor, and the most images that lived at once."""
    made, alive = [], []

    def progress(*_):
        gc.collect()
        alive.append(sum(one() is not None for one in made))

    config = EvalConfig(batch_size=4, templates="plain", num_pictures=0, decoder=decoder)
    with Largest() as largest:
        data = many(num_images, num_classes, made)
        ZeroShotSegmentation("many-zs-seg", data, config, progress)(model)
    assert len(made) == num_images
    return largest.numbers, max(alive)


def test_images_are_not_kept_and_847_classes_have_no_map_of_all_pixels(patches, monkeypatch):
    monkeypatch.setattr(score_map, "AT_ONCE", 2**18)
    few, many_of_them = (scored(patches(32), images, 847) for images in (2, 4))
    assert few[0] == many_of_them[0]
    assert few[1] <= many_of_them[1] <= 3  # a group of two, and the one that is replaced
    # A few windows' patches, a tile, the counts of pairs of classes: not 5 million scores of every pixel.
    assert many_of_them[0] < 847 * HIGH * WIDE / 5


GROWTH = """
import resource, sys
import tests.eval.test_segment_memory as here
from silc.models.config import ImageTowerConfig
from silc.models.image import ImageTower
from tests.eval.conftest import Encoded, Patches

class Towers(Encoded, Patches): ...  # patches of a tower, texts of the other

peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)
here.HIGH, here.WIDE = 240, 320
config = ImageTowerConfig(size=64, patch=16, width=32, depth=2, heads=2, mlp=64, pool="cls")
few, many = map(int, sys.argv[2:])
for images, classes in ((few, 20), (few, 847), (many, 847)):
    here.scored(Towers(ImageTower(config, 6).eval(), 64), images, classes, sys.argv[1])
    print(peak())
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("decoder", "counts"), [("cosine", "4 16"), ("scga", "2 6"), ("radseg", "2 6"), ("lposs", "2 6")]
)
def test_the_process_stays_as_large_as_it_was(decoder, counts):
    """Megabytes at the peak: of 20 classes, of 847, and of several times the images."""
    command = [sys.executable, "-c", GROWTH, decoder, *counts.split()]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=500)
    few, classes, images = map(float, done.stdout.split())
    assert classes - few < 200  # all classes at all pixels of an image are 260
    assert images - classes < 60
