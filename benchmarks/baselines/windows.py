"""Zero-shot segmentation window by window, as published code has it: the shortest loop to the same maps."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from silc.eval.metrics import confusion
from silc.eval.sliding import rescale_size, scorer_of, windows
from silc.preprocess import resample

if TYPE_CHECKING:
    from torch import Tensor

    from silc.encoder import DualEncoder
    from silc.eval.config import EvalConfig
    from silc.eval.datasets import SegmentationSet


@torch.no_grad()
def per_window(model: DualEncoder, data: SegmentationSet, config: EvalConfig) -> Tensor:
    """Pixel counts [C, C] of a data set; windows of a multiple of the patch size, no softmax."""
    scorer = scorer_of(model, data.classes, config)
    rules = scorer.rules
    num_classes = len(data.classes)
    counts = torch.zeros(num_classes, num_classes, dtype=torch.int64)
    for index in range(len(data)):
        image, truth = data.example(index)
        size = rescale_size(*image.size, rules.shorter, rules.longer, rules.rounding)
        pixels = model.preprocess.normalize(resample(image, *size, rules.interpolation).to(model.device))
        height, width = pixels.shape[-2:]
        scores = torch.zeros(num_classes, height, width, device=model.device)
        visits = torch.zeros(height, width, device=model.device)
        for y1, x1, y2, x2 in windows(height, width, rules.window, rules.stride):
            features = F.normalize(model.encode_dense(pixels[None, :, y1:y2, x1:x2], model.readouts[0]), dim=-1)
            cosines = (features @ scorer.classes.T).permute(0, 3, 1, 2)
            scores[:, y1:y2, x1:x2] += F.interpolate(cosines, (y2 - y1, x2 - x1), mode="bilinear")[0]
            visits[y1:y2, x1:x2] += 1
        prediction = F.interpolate((scores / visits)[None], truth.shape, mode="bilinear")[0].argmax(dim=0)
        counts += confusion(torch.from_numpy(truth), prediction.cpu(), num_classes)
    return counts
