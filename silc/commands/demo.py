"""`silc demo`: two small models, trained and compared in minutes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from silc import places
from silc.commands import flags
from silc.settings import Duration, Settings
from silc.terminal import announce


@dataclass(frozen=True)
class DemoCommand(Settings):
    """Train two small models on generated objects, without and with self-distillation, and write a report on both."""

    out: str = "out/demo"
    """Where everything goes; an earlier demo there is replaced."""
    duration: Annotated[str, Duration(share=False, words=("",))] = ""
    """How long to train each; by default as long as this machine allows in five minutes: 20k or 6k examples."""


def main(args: list[str]) -> int:
    """Run the demo."""
    command = flags.read(DemoCommand, args, "silc demo")
    places.folder(command.out)
    announce(f"demo: into {command.out}")
    from silc import demo

    demo.main(Path(command.out), duration=command.duration)
    return 0
