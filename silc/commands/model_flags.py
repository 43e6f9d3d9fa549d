"""Flags of every command that takes a model: types that carry their line of help."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from silc.given import Idle
from silc.settings import Device
from silc.training.directory import is_run

ModelName = Annotated[
    Positional[str],
    arg(help="A run's directory, what `silc import` wrote, open_clip:NAME/PRETRAINED, hf:ORG/NAME, FILE.npz."),
]
WeightsName = Annotated[
    Literal["auto", "student", "teacher"], arg(help="Of a run; `auto` is the teacher where there is one.")
]
TokenizerPath = Annotated[
    str, arg(help="tokenizer.json, spiece.model or a directory with one, instead of the model's own; a .npz has none.")
]
DeviceName = Annotated[str, Device(), arg(help="Where to compute: auto, cpu, cuda or cuda:N.")]


def is_import(model: str) -> bool:
    """Whether it is some model other than a run; what is not there at all is for its reader to say."""
    return not is_run(model) and (":" in model or Path(model).exists())


WEIGHTS_OF_RUNS = Idle("weights", lambda c: is_import(c.model), "the model is no run with a student and a teacher")
