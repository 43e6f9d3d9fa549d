"""`silc bench`: how fast, beside what one would use otherwise."""

from __future__ import annotations

from silc import terminal
from silc.bench import suite
from silc.commands import flags
from silc.terminal import announce, say


def main(args: list[str]) -> int:
    """Measure, print the rows, and keep them where a file is given."""
    config = flags.read(suite.BenchConfig, args, "silc bench")
    suite.check(config)
    announce(f"bench: {', '.join(config.parts)}")
    rows = suite.run(config)
    terminal.page(suite.table(rows), width=200)
    if config.out:
        say(f"benchmark: {config.out}")
    return 0
