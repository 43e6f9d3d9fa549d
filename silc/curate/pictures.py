"""Samples for HTML pages; their images are read from the shards if these can still be read."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from silc.curate.scores import ROW, shard_of
from silc.data.pairs import BadSample
from silc.data.remote import Remote, RemoteFault
from silc.data.shards import ShardPairs
from silc.data.sources import expand
from silc.errors import BadInput
from silc.page import data_uri, webp

if TYPE_CHECKING:
    from collections.abc import Sequence

    from silc.curate.scores import Scores

THUMBNAIL = 160
"""Longer side of a thumbnail, in pixels."""
PATIENCE = 10.0
"""Seconds of retries for a remote shard; after that, the page is made without its images."""


@dataclass(frozen=True)
class Shown:
    """A sample on a page."""

    picture: str
    """A data URI; empty if the shard cannot be read."""
    caption: str
    note: str


@dataclass
class Album:
    """Finds samples and their pictures."""

    scores: Scores
    _shards: dict[int, Any] = field(default_factory=dict)

    def find(self, where: str, order: str, num: int, note: str = "''") -> list[Shown]:
        """At most `num` samples; `where`, `order` and `note` (the text below the caption) are SQL."""
        caption, key = (name if name in self.scores.columns else "NULL" for name in ("caption", "key"))
        found = self.scores.con.execute(
            f"SELECT {ROW}, {key}, {caption}, CAST({note} AS VARCHAR) FROM scored WHERE {where} "
            f"ORDER BY {order}, uid, {ROW} LIMIT {num}"
        ).fetchall()
        return [Shown(self._picture(row, key), text or "", said or "") for row, key, text, said in found]

    def _picture(self, row: int, key: str | None) -> str:
        """A data URI; empty if the shard cannot be read or now holds another sample at that position."""
        number, place = row >> 32, row & 0xFFFFFFFF
        if number not in self._shards:
            self._shards[number] = _open(self.scores.files, number)
        pairs = self._shards[number]
        if pairs is None or place >= len(pairs) or pairs.key(place) != key:
            return ""
        try:
            small = Image.fromarray(pairs.pixels(place, pairs.read(place)))
        except (BadSample, RemoteFault):
            return ""
        small.thumbnail((THUMBNAIL, THUMBNAIL))
        return data_uri(webp(small, quality=75))


def _open(files: Sequence[Path], number: int) -> ShardPairs | None:
    try:
        return ShardPairs(expand(shard_of(files[number]), Remote(patience=PATIENCE)), turned=True)
    except BadInput:
        return None
