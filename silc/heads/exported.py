"""The part that all heads' exports share: the head as a run without its optimizer, with the model below inside."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from silc import checkpoint
from silc import config as configs
from silc.config import DownstreamConfig
from silc.exports.directory import model_and_facts
from silc.interop import pretrained
from silc.loading import load_any
from silc.rundir import newest_checkpoint
from silc.training.directory import CHECKPOINTS, CONFIG

if TYPE_CHECKING:
    from silc.interop.pretrained import Pretrained

C = TypeVar("C", bound=DownstreamConfig)
ENCODER = "encoder"


def copied(
    run: Path, out: Path, config: C, license: str, datasets: Sequence[str], kept: Sequence[str] = ()
) -> Pretrained:
    """Write a head into a directory that `silc.load` opens, with the model below in `encoder/`; return that model.

    The configuration in the directory contains no paths of this machine.

    Args:
        kept: names of further entries of the loader's state to copy, because the head reads them.
    """
    newest = newest_checkpoint(run)
    below, _ = model_and_facts(config.init, config.weights, None, license, datasets)
    (out / ENCODER).mkdir(parents=True)
    pretrained.save(below, out / ENCODER)
    below.tokenizer.save(out / ENCODER)
    saved = checkpoint.read(newest, only=("model",))
    loader = {name: saved.state["loader"][name] for name in kept} | {"model": load_any(out / ENCODER).checksum}
    state = {"cost": saved.state["cost"], "loader": loader}
    checkpoint.write(out / CHECKPOINTS, checkpoint.step_of(newest), saved.state_dicts, state, keep=1)
    placeless: dict[str, Any] = {"out": "", "init": ENCODER, "weights": "auto", "eval": replace(config.eval, root="")}
    data = getattr(config, "data", None)
    if data is not None:
        named = {one.name for one in fields(data)} & {"train", "images", "cache"}
        placeless["data"] = replace(data, **dict.fromkeys(named, ""))
    configs.save(replace(config, **placeless), out / CONFIG)
    return below
