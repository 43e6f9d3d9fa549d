"""Memory of a segmentation evaluation is flat in images, and grows little with classes."""

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
    name, patch_size, device, preprocess, readouts = "drawn", 16, torch.device("cpu"), Preprocess(448), ("value_block",)
    config = ImageTowerConfig(size=448, patch=16, width=64, depth=2, heads=2, mlp=128, pool="cls")
    visual = ImageTower(config, 64).eval()
    encode_dense = torch.no_grad()(lambda self, images, readout: self.visual.dense(images, readout))

def evaluate(decoder, names, images):
    config = EvalConfig(decoder=decoder)
    predictor = predictor_of(Encoded(), config)
    scorer = Scorer(predictor, F.normalize(torch.randn(names, 64), dim=-1), window_rules(predictor, config), 8)
    for number in range(0, images, 4):
        photographs = [Image.effect_noise((500, 375), 90).convert("RGB") for _ in range(4)]
        for found in score_maps(photographs, scorer):
            found.labels(375, 500)

def megabytes():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)

torch.set_num_threads(1)
decoder = sys.argv[1]
evaluate(decoder, 3, 4)
few = megabytes()
evaluate(decoder, 847, 4)
many = megabytes()
evaluate(decoder, 847, 24)
print(many - few, megabytes() - many)
"""


@pytest.mark.slow
@pytest.mark.parametrize("decoder", ["cosine", "radseg", "lposs"])
def test_memory_is_flat_in_images_and_classes(decoder: str) -> None:
    """Megabytes that 844 more classes take, and 20 more images; a batch of 8 windows has 21 of scores."""
    done = subprocess.run([sys.executable, "-c", EVALUATED, decoder], capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr
    by_classes, by_images = map(float, done.stdout.split())
    assert by_classes < 250
    assert by_images < 40
