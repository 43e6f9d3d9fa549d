"""Tables by name: decoders, which make class maps with a model, and refiners, which refine class maps.

A new decoder or refiner is an entry in a table, a row in docs/evaluation.md, and a function in a file of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Literal, NamedTuple, cast

from silc.encoder import DensePredictor, DualEncoder
from silc.errors import BadInput
from silc.eval import last_block, pamr, scclip
from silc.eval.cosine import Cosine, Refine, TclMasks
from silc.eval.joint import JointPredictor, Lposs, Scga, graphed
from silc.eval.score_map import ImagePredictor
from silc.settings import one_of

if TYPE_CHECKING:
    from silc.eval.config import EvalConfig


class Refiner(NamedTuple):
    """A function that refines class maps, where it works (each window or stitched image), and its name in records."""

    refine: Refine
    at: Literal["window", "image"]
    called: str


DECODERS: dict[str, Callable[[DualEncoder, EvalConfig], DensePredictor]] = {
    "cosine": Cosine,
    **{
        name: partial(Cosine, features=features, reads="its own", needs=last_block.needs_of(name), decoder=name)
        for name, features in last_block.FEATURES.items()
    },
    "scclip": partial(Cosine, features=scclip.features, reads="its own", needs=last_block.tower_of, decoder="scclip"),
    "scga": partial(Scga, decoder="scga"),
    "radseg": partial(
        Scga, features=last_block.FEATURES["scra"], reads="its own", needs=last_block.tower_of, decoder="radseg"
    ),
    "lposs": partial(Lposs, needs=graphed, decoder="lposs"),
}
REFINERS = {
    "pamr": Refiner(pamr.refine_at_their_size, "window", "PAMR"),
    "pamr-image": Refiner(pamr.refine, "image", "PAMR of stitched maps"),
}


def predictor_of(model: DualEncoder | DensePredictor, config: EvalConfig) -> DensePredictor:
    """The predictor that an evaluation asks for: a decoder on a model, or a given predictor; with refining and mixing.

    Raises:
        BadInput: no such decoder, refiner or readout; settings that do not go with the predictor.
    """
    refiner, other = refiner_of(config), None
    if not isinstance(model, DensePredictor):
        predictor = one_of(DECODERS, config.decoder, "decoder")(model, config)
        other = Cosine(model, replace(config, readout=config.mix)) if config.mix else None
    elif config.readout or config.decoder != "cosine" or (config.mix and not getattr(model, "makes_masks", False)):
        raise BadInput(f"{model.name} makes class maps itself; leave out eval.decoder, eval.readout and eval.mix")
    elif config.background and getattr(model, "makes_masks", None) is False:
        raise BadInput(f"eval.background needs masks from 0 to 1, and {model.name} makes none; set it to 0")
    else:
        predictor = model
        towers = cast("DualEncoder", model)  # a head has towers too; TCL's mix is made for its masks
        other = Cosine(towers, replace(config, readout=config.mix)) if config.mix else None
    if isinstance(predictor, JointPredictor) and (config.mix or config.background or refiner):
        raise BadInput(
            f"decoder {config.decoder} joins windows; leave out eval.mix, eval.background, eval.refine and eval.pamr"
        )
    if isinstance(predictor, ImagePredictor) and refiner:
        raise BadInput(f"{predictor.name} puts views of an image together; leave out eval.refine and eval.pamr")
    in_windows = refiner.refine if refiner and refiner.at == "window" else None
    return TclMasks(predictor, in_windows, other) if in_windows or other else predictor


def refiner_of(config: EvalConfig) -> Refiner | None:
    """The refiner that an evaluation asks for; None if it asks for none.

    Raises:
        BadInput: no such refiner, or two.
    """
    if config.pamr and config.refine not in ("", "pamr"):
        raise BadInput(f"eval.pamr means eval.refine pamr, and eval.refine is {config.refine}; give only one of them")
    name = "pamr" if config.pamr else config.refine
    return one_of(REFINERS, name, "refiner") if name else None
