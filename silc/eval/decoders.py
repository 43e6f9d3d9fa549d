"""What makes class maps of a model, and what refines them, by name.

A new decoder or refiner is an entry in a table, a row in docs/evaluation.md, and a function in a file of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from silc.encoder import DensePredictor, DualEncoder
from silc.errors import BadInput
from silc.eval import last_block, pamr
from silc.models.readouts import chosen
from silc.settings import one_of

if TYPE_CHECKING:
    from silc.eval.config import EvalConfig

MIX = 0.3
"""TCL's share of the second readout."""


Features = Callable[[DualEncoder, Tensor, str], Tensor]
"""Patch features [B, h, w, D], of any length, of a model, images and the name of a readout."""
Refine = Callable[[Tensor, Tensor], Tensor]
"""Class maps [C, h, w] of class maps [C, h, w] and a normalised image [3, H, W]."""


def read_out(model: DualEncoder, images: Tensor, readout: str) -> Tensor:
    """`Features` as the model gives them."""
    return model.encode_dense(images, readout)


class Cosine:
    """Each patch's cosine with each class, by the features of `eval.readout`; as masks for TCL's mix and threshold.

    Args:
        features: what makes the features; a decoder has its own.
        reads: what records call the readout of a decoder that has one of its own; empty: `eval.readout` is asked for.
        record: what records say of it beside the readout.

    Raises:
        BadInput: no such readout, or one beside a decoder's own.
    """

    rules: ClassVar[Mapping[str, Any]] = {}

    def __init__(
        self, model: DualEncoder, config: EvalConfig, features: Features = read_out, reads: str = "", **record: Any
    ) -> None:
        if reads and config.readout:
            raise BadInput(f"decoder {config.decoder} has a readout of its own; leave out eval.readout")
        self.model, self.features, self.masks = model, features, bool(config.mix or config.background)
        self.name, self.preprocess = model.name, model.preprocess
        self.patch_size, self.device = model.patch_size, model.device
        self.readout = reads or chosen(config.readout, model.readouts, model.name)
        self.record = {"readout": self.readout, **record}

    def classes(self, names: Sequence[str], embed: Callable[[DualEncoder, Sequence[str]], Tensor]) -> Tensor:
        """Unit-length text features [C, D]."""
        return embed(self.model, names).to(self.device)

    def maps(self, images: Tensor, classes: Tensor) -> Tensor:
        """Cosines [B, C, h, w], or masks: sigmoid(10 (cos - 0.25))."""
        features = F.normalize(self.features(self.model, images, self.readout).float(), dim=-1)
        cosines = (features @ classes.T).permute(0, 3, 1, 2)
        return torch.sigmoid(10 * (cosines - 0.25)) if self.masks else cosines


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
        return (1 - MIX) * maps + MIX * self.other.maps(images, classes) if self.other else maps


class Refiner(NamedTuple):
    """What refines class maps, whether in each window or once they are stitched, and what records call it."""

    refine: Refine
    at: Literal["window", "image"]
    called: str


DECODERS: dict[str, Callable[[DualEncoder, EvalConfig], DensePredictor]] = {
    "cosine": Cosine,
    **{
        name: partial(Cosine, features=features, reads="its own", decoder=name)
        for name, features in last_block.FEATURES.items()
    },
}
REFINERS = {
    "pamr": Refiner(pamr.refine_at_their_size, "window", "PAMR"),
    "pamr-image": Refiner(pamr.refine, "image", "PAMR of stitched maps"),
}


def predictor_of(model: DualEncoder | DensePredictor, config: EvalConfig) -> DensePredictor:
    """The predictor an evaluation asks for: a decoder on a model, or one that is given; refined and mixed.

    Raises:
        BadInput: no such decoder, refiner or readout; settings that do not go with the predictor.
    """
    refiner, other = refiner_of(config), None
    if not isinstance(model, DensePredictor):
        predictor = one_of(DECODERS, config.decoder, "decoder")(model, config)
        other = Cosine(model, replace(config, readout=config.mix)) if config.mix else None
    elif config.readout or config.mix or config.decoder != "cosine":
        raise BadInput(f"{model.name} makes class maps itself; leave out eval.decoder, eval.readout and eval.mix")
    else:
        predictor = model
    in_windows = refiner.refine if refiner and refiner.at == "window" else None
    return TclMasks(predictor, in_windows, other) if in_windows or other else predictor


def refiner_of(config: EvalConfig) -> Refiner | None:
    """What an evaluation refines class maps with.

    Raises:
        BadInput: no such refiner, or two.
    """
    if config.pamr and config.refine not in ("", "pamr"):
        raise BadInput(f"eval.pamr is refine pamr, and eval.refine is {config.refine}; give one of them")
    name = "pamr" if config.pamr else config.refine
    return one_of(REFINERS, name, "refiner") if name else None
