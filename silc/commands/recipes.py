"""`silc recipes`: the names of the recipes."""

from __future__ import annotations

from silc import recipes
from silc.commands.flags import first_lines
from silc.errors import BadInput
from silc.kinds import heads
from silc.models.variants import LOCAL_SIZE
from silc.terminal import say


def main(args: list[str]) -> int:
    """Print a line per basic recipe, how recipes for other towers and the ablation are named, and a line per head."""
    if args and args[0] not in ("-h", "--help"):
        raise BadInput(f"silc recipes takes no arguments, it lists all recipes; to see one: silc show {args[0]}")
    say(first_lines(recipes.BASES))
    say(f"\nOther towers: NAME-SIZE with SIZE one of {', '.join(LOCAL_SIZE)} (b16 is the default).")
    say(f"The paper's ablation, 5 B examples: {', '.join(f'{row}-5b' for row in recipes.ABLATION)}.")
    if found := heads():
        say(f"\nHeads, trained on a model with --init MODEL:\n{first_lines(found)}")
    return 0
