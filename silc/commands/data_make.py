"""`silc data make`: tar shards from a table or a folder of images."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from silc import places
from silc.commands import flags
from silc.errors import BadInput
from silc.settings import Range, Settings
from silc.terminal import announce, say, track

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from silc.batch import Broken

    Made = tuple[Path, int, list[Broken]]


@dataclass(frozen=True)
class MakeCommand(Settings):
    """Make tar shards, as data.train takes them, of a table of images and captions (.csv, .tsv, .jsonl, .json,
    .parquet) or of a folder of images with such a table, or with a .txt or .json beside each. Images go in as they are.
    """

    table: tyro.conf.Positional[str]
    """The table or the folder."""
    out: str
    """Names of the shards: '/data/{00000..}.tar', numbered from there on. Shards that exist are skipped."""
    image_root: str = ""
    """Folder of a table's images, as data.image_root; empty: the table's folder."""
    per_shard: Annotated[int, Range(least=1, most=1_000_000)] = 10_000
    """Samples in a shard; about 1 GB is usual."""


def main(args: list[str]) -> int:
    """Make the shards."""
    command = flags.read(MakeCommand, args, "silc data make")
    from silc.curate.make import described, make, open_entries, places_of
    from silc.data.quarantine import QUARANTINE

    shards = places_of(command.out)
    folder = places.folder(shards[0].parent)
    announce(f"data make: {command.table} into {command.out}")
    entries = open_entries(command.table, command.image_root)
    title = Path(command.table).name
    num_shards = -(-len(entries) // command.per_shard)
    making = _listed(make(entries, shards, command.per_shard, title), folder / QUARANTINE)
    made = list(track(making, "writing shards", True, total=num_shards))
    broken = [one for _, _, several in made for one in several]
    if len(broken) == len(entries):
        raise BadInput(f"none of {len(entries):,} rows can be used; the first: {broken[0].key!r} {broken[0].detail}")
    say(described(made))
    if broken:
        say(f"{folder / QUARANTINE} lists them")
    last = f"{num_shards - 1 + int(shards.first):0{len(shards.first)}d}"
    say(f"next: silc data check '{shards.before}{{{shards.first}..{last}}}{shards.after}'")
    return 0


def _listed(made: Iterable[Made], file: Path) -> Iterator[Made]:
    """Yield each shard, after the samples that were left out of it are appended to a file."""
    for path, held, broken in made:
        if broken:
            with file.open("a", encoding="utf-8") as handle:
                handle.writelines(json.dumps(one._asdict()) + "\n" for one in broken)
        yield path, held, broken
