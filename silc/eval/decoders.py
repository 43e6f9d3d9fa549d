"""Decoders and refiners by name. A new one is an entry in a table, in docs/evaluation.md, and a file of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeVar

from silc.errors import BadInput
from silc.eval import pamr
from silc.eval.predictors import Cosine, DensePredictor, Refine, TclMasks
from silc.models.readouts import chosen
from silc.settings import nearest

if TYPE_CHECKING:
    from silc.encoder import DualEncoder
    from silc.eval.config import EvalConfig

T = TypeVar("T")


class Refiner(NamedTuple):
    """What refines class maps, whether in each window or once they are stitched, and what records call it."""

    refine: Refine
    at: Literal["window", "image"]
    called: str


def cosine(model: DualEncoder, config: EvalConfig) -> Cosine:
    """The cosine of `eval.readout`, as masks for TCL's mix and threshold."""
    readout = chosen(config.readout, model.readouts, model.name)
    return Cosine(model, readout, masks=bool(config.mix or config.background))


Decoder = Callable[["DualEncoder", "EvalConfig"], DensePredictor]
DECODERS: dict[str, Decoder] = {"cosine": cosine}
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
        predictor = decoder_of(config)(model, config)
        if config.mix and config.decoder != "cosine":
            raise BadInput(
                f"eval.mix is of two readouts and does not go with eval.decoder {config.decoder}; choose one"
            )
        if config.mix:
            other = Cosine(model, chosen(config.mix, model.readouts, model.name), masks=True)
    elif config.readout or config.mix or config.decoder != "cosine":
        raise BadInput(f"{model.name} makes class maps itself; leave out eval.decoder, eval.readout and eval.mix")
    else:
        predictor = model
    in_windows = refiner.refine if refiner and refiner.at == "window" else None
    return TclMasks(predictor, in_windows, other) if in_windows or other else predictor


def decoder_of(config: EvalConfig) -> Decoder:
    """What makes a predictor of a model.

    Raises:
        BadInput: no such decoder.
    """
    return _named(DECODERS, config.decoder, "decoder")


def refiner_of(config: EvalConfig) -> Refiner | None:
    """What an evaluation refines class maps with.

    Raises:
        BadInput: no such refiner, or two.
    """
    if config.pamr and config.refine not in ("", "pamr"):
        raise BadInput(f"eval.pamr is refine pamr, and eval.refine is {config.refine}; give one of them")
    name = "pamr" if config.pamr else config.refine
    return _named(REFINERS, name, "refine") if name else None


def _named(table: Mapping[str, T], name: str, setting: str) -> T:
    if name not in table:
        raise BadInput(f"eval.{setting} has no '{name}'{nearest(name, table) or ';'} There are: {', '.join(table)}")
    return table[name]
