"""Dense prediction by protocol: class names in, class maps out.

Cosines of a readout, decoders and trained heads are `DensePredictor`s. Windows, stitching, labels and metrics are the
evaluator's (`sliding.py`, `segment.py`): a predictor says what happens inside a window, and which windows it wants.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor

from silc.encoder import PatchModel

if TYPE_CHECKING:
    from silc.encoder import DualEncoder
    from silc.eval.protocols import SlidingWindowProtocol

MIX = 0.3
"""TCL's share of the second readout."""
Embed = Callable[["DualEncoder", Sequence[str]], Tensor]
"""Unit-length text features [C, D] of class names, by the prompts of the evaluation."""
Refine = Callable[[Tensor, Tensor], Tensor]
"""Class maps [C, h, w] and a normalised image [3, H, W] to class maps [C, h, w]."""


@runtime_checkable
class DensePredictor(PatchModel, Protocol):
    """Class names in, class maps out."""

    @property
    def record(self) -> Mapping[str, Any]:
        """What records say of it: `decoder`, if not the cosine; `readout`; `refined`, `tuned_on_labels`, if not raw."""
        ...

    def windows(self, rules: SlidingWindowProtocol) -> SlidingWindowProtocol:
        """The rules it is scored by: the evaluation's, or its own; then `record` has its own `protocol`."""
        ...

    def classes(self, names: Sequence[str], embed: Embed) -> Tensor:
        """Features [C, ...] of class names, made once; `embed` makes text features as the evaluation does."""
        ...

    def maps(self, images: Tensor, classes: Tensor) -> Tensor:
        """Class maps [B, C, h, w] of images, for the features of `classes`."""
        ...


class OnEncoder:
    """What predictors on a two-tower model share: its pixels and texts, and the evaluation's windows."""

    def __init__(self, model: DualEncoder, **record: Any) -> None:
        self.model, self.name, self.preprocess = model, model.name, model.preprocess
        self.patch_size, self.device, self.record = model.patch_size, model.device, record

    def windows(self, rules: SlidingWindowProtocol) -> SlidingWindowProtocol:
        """The evaluation's."""
        return rules

    def classes(self, names: Sequence[str], embed: Embed) -> Tensor:
        """Unit-length text features [C, D]."""
        return embed(self.model, names).to(self.device)


class Cosine(OnEncoder):
    """The cosine of each patch with each class, raw.

    Args:
        readout: of the model's `readouts`.
        masks: whether cosines become masks as TCL's do, sigmoid(10 (cos - 0.25)): what its mix and threshold work on.
    """

    def __init__(self, model: DualEncoder, readout: str, *, masks: bool = False) -> None:
        super().__init__(model, readout=readout)
        self.readout, self.masks = readout, masks

    def features(self, images: Tensor) -> Tensor:
        """Patch features [B, h, w, D], not normalised: what a decoder that changes them has instead."""
        return self.model.encode_dense(images, self.readout).float()

    def maps(self, images: Tensor, classes: Tensor) -> Tensor:
        """Cosines, or masks, [B, C, h, w]."""
        cosines = (F.normalize(self.features(images), dim=-1) @ classes.T).permute(0, 3, 1, 2)
        return torch.sigmoid(10 * (cosines - 0.25)) if self.masks else cosines


class TclMasks:
    """Another predictor's maps as TCL treats them: refined in each window, then mixed with a second readout's.

    Args:
        refine: on the grid of the patches; None leaves maps as they are.
        other: masks of a readout that are mixed in; the share was tuned on labels.
    """

    def __init__(self, below: DensePredictor, refine: Refine | None, other: Cosine | None) -> None:
        self.below, self.refine, self.other = below, refine, other
        self.name, self.preprocess = below.name, below.preprocess
        self.patch_size, self.device = below.patch_size, below.device
        self.windows, self.classes, self.record = below.windows, below.classes, dict(below.record)
        if other:
            self.record |= {"mix": f"{1 - MIX} own + {MIX} {other.readout}", "tuned_on_labels": True}

    def maps(self, images: Tensor, classes: Tensor) -> Tensor:
        """Maps [B, C, h, w]."""
        maps = self.below.maps(images, classes)
        if self.refine:
            maps = torch.stack([self.refine(own, image) for own, image in zip(maps, images, strict=True)])
        return (1 - MIX) * maps + MIX * self.other.maps(images, classes) if self.other else maps
