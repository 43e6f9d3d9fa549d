"""`silc show`: every field of a recipe."""

from __future__ import annotations

from silc import config as configs
from silc import terminal
from silc.commands.flags import configured


def main(args: list[str]) -> int:
    """Print each field's path, value and meaning."""
    config, _ = configured("show", args)
    rows = ((path, repr(value), meaning) for path, value, meaning in configs.fields(config))
    terminal.table(config.recipe, ("field", "value", "meaning"), rows)
    return 0
