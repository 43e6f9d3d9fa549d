"""SILC: vision-language pretraining whose features are good at every pixel.

Importing this package imports no torch; the names below load what they need when they are first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # so that editors and type checkers know them
    from silc.config import Config as Config
    from silc.errors import BadInput as BadInput
    from silc.evaluation import evaluate as evaluate
    from silc.exports.directory import export as export
    from silc.loading import load as load
    from silc.loading import load_run as load_run
    from silc.pretraining.start import finetune as finetune
    from silc.pretraining.start import train as train
    from silc.recipes import get as recipe  # noqa: F401

__version__ = "0.1.0"

_WHERE = {
    "train": "silc.pretraining.start:train",
    "finetune": "silc.pretraining.start:finetune",
    "evaluate": "silc.evaluation:evaluate",
    "load": "silc.loading:load",
    "load_run": "silc.loading:load_run",
    "export": "silc.exports.directory:export",
    "recipe": "silc.recipes:get",
    "Config": "silc.config:Config",
    "BadInput": "silc.errors:BadInput",
}
__all__ = [*_WHERE, "__version__"]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'silc' has no attribute '{name}'")
    module, _, attribute = _WHERE[name].partition(":")
    return getattr(importlib.import_module(module), attribute)


def __dir__() -> list[str]:
    return sorted(__all__)
