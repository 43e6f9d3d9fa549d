"""`silc train`: a run from its recipe."""

from __future__ import annotations

from silc import checks, given
from silc.commands.flags import configured
from silc.kinds import KINDS
from silc.terminal import announce


def main(args: list[str]) -> int:
    """Begin a run, or go on with the one that is there."""
    config, typed = configured("train", args)
    out, goes_on = checks.training(config)
    given.say_unread(typed, config)
    announce(f"train: {config.recipe} {'goes on' if goes_on else 'begins'} in {out}")
    KINDS[config.kind].find("train")(config)
    return 0
