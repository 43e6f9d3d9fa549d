"""Memory of decoders that join windows is flat in images, and grows little with classes."""

from __future__ import annotations

import subprocess
import sys

import pytest

EVALUATED = """
import resource, sys, torch
import torch.nn.functional as F
from PIL import Image
from silc.eval.config import EvalConfig
from silc.eval.decoders import predictor_of
from silc.eval.sliding import Scorer, score_maps, window_rules
from silc.models.config import ImageTowerConfig
from silc.models.image import ImageTower
from silc.preprocess import Preprocess

class Encoded:
    name, patch_size, device, preprocess, readouts = "drawn", 8, torch.device("cpu"), Preprocess(128), ("value_block",)
    config = ImageTowerConfig(size=128, patch=8, width=64, depth=2, heads=2, mlp=128, pool="cls")
    visual = ImageTower(config, 64).eval()
    encode_dense = torch.no_grad()(lambda self, images, readout: self.visual.dense(images, readout))

def evaluate(decoder, names, images):
    config = EvalConfig(decoder=decoder)
    predictor = predictor_of(Encoded(), config)
    scorer = Scorer(predictor, F.normalize(torch.randn(names, 64), dim=-1), window_rules(predictor, config), 8)
    for number in range(0, images, 4):
        photographs = [Image.effect_noise((170, 128), 90).convert("RGB") for _ in range(4)]
        for found in score_maps(photographs, scorer):
            found.labels(128, 170)

def megabytes():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)

torch.set_num_threads(1)
decoder = sys.argv[1]
evaluate(decoder, 3, 4)
few = megabytes()
evaluate(decoder, 847, 4)
many = megabytes()
evaluate(decoder, 847, 12)
print(many - few, megabytes() - many)
"""


@pytest.mark.slow
@pytest.mark.parametrize("decoder", ["radseg", "lposs"])
def test_memory_is_flat_in_images_and_classes(decoder: str) -> None:
    """Megabytes that 844 more classes take (79 and 101 were measured), and 12 images after 4 (0.0)."""
    done = subprocess.run([sys.executable, "-c", EVALUATED, decoder], capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr
    by_classes, by_images = map(float, done.stdout.split())
    assert by_classes < 250
    assert by_images < 40
