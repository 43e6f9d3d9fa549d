"""Prompts to one text feature per class: embedding and ensembling."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch.nn.functional as F

from silc.eval.embed import ALONE, text_features
from silc.eval.prompts import prompts

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from silc.distributed import World
    from silc.eval.protocols import Order
    from silc.types import DualEncoder


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
