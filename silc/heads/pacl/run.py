"""A run of PACL, and its model."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from silc import checks
from silc.heads import pairs
from silc.heads.pacl.config import PaclConfig
from silc.heads.pacl.model import Pacl, PaclLearner, PaclModel
from silc.training.fit import fit

if TYPE_CHECKING:
    from silc.heads.pacl.head import PaclHead
    from silc.predict import Model


def _with_head(model: Model, head: PaclHead) -> PaclModel:
    return PaclModel(**vars(model) | {"weights": "pacl", "dtype": torch.float32}, head=head)


HEAD = pairs.PairsHead(PaclConfig, Pacl, PaclLearner, _with_head)
load = partial(pairs.load, HEAD)
"""The model of a finished run."""


def train(config: PaclConfig) -> Path:
    """Train a head to its end and give the run's directory.

    Raises:
        BadInput: the configuration, the data, or what `out` or `init` hold cannot be used.
        Preempted: the process, or that of another rank, was asked to stop; what it had is saved.
    """
    return fit(config.train, checks.training(config), partial(pairs.compose, HEAD, config))
