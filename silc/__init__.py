"""SILC: vision-language pretraining whose features are good at every pixel.

Importing this package imports no torch; the names below load what they need when they are first used.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_WHERE = {
    "train": "silc.run",
    "finetune": "silc.continuation",
    "evaluate": "silc.scoring",
    "load": "silc.predict",
    "load_run": "silc.predict",
    "export": "silc.exports.directory",
    "recipe": "silc.recipes",
    "Config": "silc.config",
    "BadInput": "silc.types",
}
__all__ = [*_WHERE, "__version__"]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'silc' has no attribute '{name}'")
    return getattr(importlib.import_module(_WHERE[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
