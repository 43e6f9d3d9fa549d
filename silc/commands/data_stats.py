"""`silc data stats`: a look at scores before choosing by them."""

from __future__ import annotations

from dataclasses import dataclass

import tyro

from silc import places
from silc.commands import flags
from silc.data.index_cache import expanded
from silc.settings import Settings
from silc.terminal import announce, complain, say


@dataclass(frozen=True)
class StatsCommand(Settings):
    """Show scores on a page: distributions, samples at each decile, languages, words, samples that look alike."""

    scores: tyro.conf.Positional[str]
    """The folder of parquet files that `silc data score` wrote."""
    out: str
    """Folder for stats.html and stats.json."""
    memory: str = "2GB"
    """Memory for DuckDB; beyond it, DuckDB writes to $TMPDIR."""


def main(args: list[str]) -> int:
    """Write the page."""
    command = flags.read(StatsCommand, args, "silc data stats")
    out = places.folder(command.out)
    announce(f"data stats: {command.scores} into {out}")
    from silc.curate.scores import open_scores
    from silc.curate.stats import PAGE, described, write_stats

    with open_scores(expanded(command.scores), memory=command.memory) as scores:
        if scores.missing:
            complain(scores.missing)
        say(described(write_stats(scores, out)))
    say(f"page: {out / PAGE}")
    return 0
