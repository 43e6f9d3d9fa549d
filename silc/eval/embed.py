"""Images and texts to features, batch by batch: memory holds one batch of pixels and the features."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import torch

from silc.types import BadInput

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

    from silc.types import DualEncoder

Progress = Callable[[int, int], None]
"""Called with how many of how many are done."""


def silent(done: int, total: int) -> None:
    """A progress callback that says nothing."""


@torch.no_grad()
def image_features(
    model: DualEncoder, images: Sequence[Image.Image], batch_size: int, progress: Progress = silent
) -> Tensor:
    """Unit-length features float32 [N, D], on the CPU, of N images, each whole as `model.preprocess` sees it.

    Raises:
        BadInput: features that are not finite.
    """
    features = []
    # Pillow decodes and resizes without holding the interpreter lock, so threads are enough.
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for batch in batches(len(images), batch_size):
            pixels = torch.stack(list(pool.map(lambda index: model.preprocess(images[index]), batch)))
            features.append(_finite(model.encode_image(model.preprocess.normalize(pixels.to(model.device))), model))
            progress(batch.stop, len(images))
    return torch.cat(features)


@torch.no_grad()
def text_features(model: DualEncoder, texts: Sequence[str], batch_size: int, progress: Progress = silent) -> Tensor:
    """Unit-length features float32 [N, D], on the CPU, of N texts.

    Raises:
        BadInput: features that are not finite.
    """
    features = []
    for batch in batches(len(texts), batch_size):
        ids = model.tokenizer(texts[batch.start : batch.stop])
        features.append(_finite(model.encode_text(ids.to(model.device)), model))
        progress(batch.stop, len(texts))
    return torch.cat(features)


def batches(total: int, size: int) -> Iterator[range]:
    """Consecutive ranges of at most `size` that cover range(total)."""
    for start in range(0, total, size):
        yield range(start, min(start + size, total))


def _finite(features: Tensor, model: DualEncoder) -> Tensor:
    if not features.isfinite().all():
        raise BadInput(f"{model.name or 'the model'} gives features that are not finite; its weights cannot be scored")
    return features.float().cpu()
