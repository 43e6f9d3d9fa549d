"""Class maps as cosines of patch features with class names, and TCL's refining and mixing of such maps."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from silc.encoder import DensePredictor, DualEncoder
from silc.errors import BadInput
from silc.eval.config import LOOK_TWICE
from silc.models.readouts import chosen

if TYPE_CHECKING:
    from silc.eval.config import EvalConfig

MIX = 0.3
"""TCL's share of the second readout."""


Features = Callable[[DualEncoder, Tensor, str], Tensor]
"""Function of a model, images and the name of a readout that returns patch features [B, h, w, D] of any norm."""
Refine = Callable[[Tensor, Tensor], Tensor]
"""Function of class maps [C, h, w] and a normalised image [3, H, W] that returns refined class maps [C, h, w]."""


def read_out(model: DualEncoder, images: Tensor, readout: str) -> Tensor:
    """The model's own patch features."""
    return model.encode_dense(images, readout)


class Cosine:
    """Decoder by each patch's cosine with each class, on the features of `eval.readout`.

    For TCL's mix and threshold the cosines become masks.

    Args:
        features: function that makes the features; some decoders have their own.
        reads: name in records of a decoder's own readout; empty: the readout is `eval.readout`.
        needs: raises `BadInput` for a model that the decoder cannot use, before any image is read.
        record: further entries of the record, beside the readout.

    Raises:
        BadInput: no such readout, `eval.readout` for a decoder with its own, or what `needs` raises.
    """

    rules: ClassVar[Mapping[str, Any]] = {}

    def __init__(
        self,
        model: DualEncoder,
        config: EvalConfig,
        features: Features = read_out,
        reads: str = "",
        needs: Callable[[DualEncoder], object] = lambda _: None,
        **record: Any,
    ) -> None:
        if reads and config.readout:
            raise BadInput(f"decoder {config.decoder} has a readout of its own; leave out eval.readout")
        needs(model)
        self.model, self.features, self.masks = model, features, bool(config.mix or config.background)
        self.name, self.preprocess = model.name, model.preprocess
        self.patch_size, self.device = model.patch_size, model.device
        self.readout = reads or chosen(config.readout, model.readouts, model.name)
        second = getattr(model, "second", None) if config.decoder in LOOK_TWICE else None
        self.record: dict[str, Any] = {"readout": self.readout, **({"second": second.name} if second else {}), **record}

    def classes(self, names: Sequence[str], embed: Callable[[DualEncoder, Sequence[str]], Tensor]) -> Tensor:
        """Unit-length text features [C, D]."""
        return embed(self.model, names).to(self.device)

    def maps(self, images: Tensor, classes: Tensor) -> Tensor:
        """Cosines [B, C, h, w], or masks: sigmoid(10 (cos - 0.25))."""
        cosines = self.cosines(self.features(self.model, images, self.readout), classes).permute(0, 3, 1, 2)
        return torch.sigmoid(10 * (cosines - 0.25)) if self.masks else cosines

    def cosines(self, features: Tensor, classes: Tensor) -> Tensor:
        """Cosines [..., C] of features [..., D] of any norm."""
        return F.normalize(features.float(), dim=-1) @ classes.T


class TclMasks:
    """Another predictor's maps as TCL treats them: refined in each window, then mixed with a second readout's masks."""

    def __init__(self, below: DensePredictor, refine: Refine | None, other: Cosine | None) -> None:
        self.below, self.refine, self.other, self.record = below, refine, other, dict(below.record)
        self.name, self.preprocess, self.rules = below.name, below.preprocess, below.rules
        self.patch_size, self.device, self.classes = below.patch_size, below.device, below.classes
        if other:
            self.record |= {"mix": f"{1 - MIX} own + {MIX} {other.readout}", "tuned_on_labels": True}

    def maps(self, images: Tensor, classes: Tensor) -> Tensor:
        """Maps [B, C, h, w]."""
        maps = self.below.maps(images, classes)
        if self.refine:
            maps = torch.stack([self.refine(own, image) for own, image in zip(maps, images, strict=True)])
        if self.other is None:
            return maps
        theirs = self.other.maps(images, classes)
        if theirs.shape != maps.shape:  # a head's grid is finer
            theirs = F.interpolate(theirs, maps.shape[-2:], mode="bilinear", align_corners=False)
        return (1 - MIX) * maps + MIX * theirs
