"""Features of images, texts and classes, batch by batch: memory holds one batch of pixels and all features.

Several ranks share the work by whole batches, so every forward pass is the same as on a single rank. Then every rank
has the features of all, in order.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

import torch
import torch.nn.functional as F

from silc.distributed import World
from silc.errors import BadInput
from silc.eval.prompts import prompts

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

    from silc.encoder import DualEncoder, PatchModel
    from silc.eval.protocols import Order
    from silc.preprocess import Preprocess

T = TypeVar("T")
OnBatch = Callable[[int, int], None]
"""Callback (done, total): how many items are done, of how many."""
ALONE = World()


def silent(*_: object) -> None:
    """A progress callback that says nothing."""


@torch.no_grad()
def image_features(
    model: DualEncoder,
    images: Sequence[Image.Image],
    preprocess: Preprocess,
    batch_size: int,
    progress: OnBatch = silent,
    *,
    pooled: bool = False,
    world: World = ALONE,
) -> Tensor:
    """Features float32 [N, D], on the CPU, of N images: of unit length, or `encode_pooled`'s if `pooled`.

    Raises:
        BadInput: features that are not finite.
    """
    encode = model.encode_pooled if pooled else model.encode_image
    # Pillow decodes and resizes without holding the interpreter lock, so threads are enough.
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:

        def features(batch: range) -> Tensor:
            pixels = torch.stack(list(pool.map(lambda index: preprocess(images[index]), batch)))
            return encode(preprocess.normalize(pixels.to(model.device)))

        return finite(_gathered(features, len(images), batch_size, progress, world), model)


@torch.no_grad()
def text_features(
    model: DualEncoder,
    texts: Sequence[str],
    batch_size: int,
    *,
    normalize: bool = True,
    world: World = ALONE,
) -> Tensor:
    """Features float32 [N, D], on the CPU, of N texts: of unit length, or as the tower gives them if not `normalize`.

    Raises:
        BadInput: features that are not finite.
    """

    def features(batch: range) -> Tensor:
        ids = model.tokenizer(texts[batch.start : batch.stop]).to(model.device)
        return model.encode_text(ids, normalize=normalize)

    return finite(_gathered(features, len(texts), batch_size, silent, world), model)


def ensemble(features: Tensor, order: Order) -> Tensor:
    """One unit-length feature [C, D] per class from those of its P prompts [C, P, D].

    `normalize, mean, normalize` is what CLIP, big_vision and MaskCLIP do; `mean, normalize` (TCL, GroupViT) lets
    prompts with long features weigh more.
    """
    if order == "normalize, mean, normalize":
        features = F.normalize(features, dim=-1)
    return F.normalize(features.mean(dim=1), dim=-1)


def text_classifier(
    model: DualEncoder,
    names: Sequence[str],
    templates: Sequence[str],
    order: Order = "normalize, mean, normalize",
    *,
    batch_size: int = 256,
    world: World = ALONE,
) -> Tensor:
    """Unit-length weights [C, D] on the CPU, one row per class name, ensembled over the templates."""
    texts = [text for name in names for text in prompts(name, templates)]
    normalized = order == "normalize, mean, normalize"
    features = text_features(model, texts, batch_size, normalize=normalized, world=world)  # [C * P, D]
    return ensemble(features.unflatten(0, (len(names), len(templates))), order)


def batches(total: int, size: int) -> Iterator[range]:
    """Consecutive ranges of at most `size` that cover range(total)."""
    for start in range(0, total, size):
        yield range(start, min(start + size, total))


def dealt(total: int, size: int, world: World) -> Iterator[range]:
    """This rank's share of `batches`: every `world.size`-th one."""
    for number, batch in enumerate(batches(total, size)):
        if number % world.size == world.rank:
            yield batch


def _gathered(
    features: Callable[[range], Tensor], total: int, batch_size: int, progress: OnBatch, world: World
) -> Tensor:
    """Features [total, D] of all batches, each computed on one rank."""

    def share() -> dict[int, Tensor]:
        mine: dict[int, Tensor] = {}
        for batch in dealt(total, batch_size, world):
            mine[batch.start] = features(batch).float().cpu()
            progress(batch.stop, total)
        return mine

    everyone: dict[int, Tensor] = {}
    for theirs in shared(share, world):
        everyone |= theirs
    return torch.cat([everyone[start] for start in sorted(everyone)])


def shared(share: Callable[[], T], world: World) -> list[T]:
    """Compute this rank's share, and return every rank's share in rank order.

    A `BadInput` on one rank is raised on all of them, because the others wait for that rank's share.

    Raises:
        BadInput: on every rank, with the message of the first rank that failed.
    """
    mine, complaint = None, ""
    try:
        mine = share()
    except BadInput as error:
        complaint = str(error)
    everyone = world.collect((mine, complaint))
    if told := [theirs for _, theirs in everyone if theirs]:
        raise BadInput(told[0])
    return [theirs for theirs, _ in everyone]


def finite(features: Tensor, model: PatchModel) -> Tensor:
    """The features or class maps, unchanged, if all of them are finite.

    Raises:
        BadInput: some are not finite. Images or pixels with these would get the first class, without any sign of it.
    """
    if not features.isfinite().all():
        raise BadInput(f"{model.name or 'the model'} gives features that are not finite; its weights cannot be scored")
    return features
