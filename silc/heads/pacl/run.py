"""A run of PACL, and its model."""

from __future__ import annotations

from silc.heads.pacl.config import PaclConfig
from silc.heads.pacl.model import Pacl, PaclLearner, PaclModel
from silc.heads.pairs import PairsHead

HEAD = PairsHead(PaclConfig, Pacl, PaclLearner, PaclModel)
train, load = HEAD.train, HEAD.load
