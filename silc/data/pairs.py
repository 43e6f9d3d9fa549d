"""The interface of data sources: numbered samples, in particular pairs of an image and its captions.

`shards` implements it for tar shards, `folder` for a folder with a table of captions, `scenes` for generated scenes;
`sources` opens the one that the configuration names.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Protocol, Self, TypeVar

import numpy as np

from silc.batch import Broken

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from silc.images import Suffices

FAULTS = ("broken_shard", "cut_shard", "ignored_member")
"""Problems found when a source is opened: an unusable shard, a truncated shard, a member that is no plain file."""
READ_AHEAD = 256
"""Number of captions that are fetched together."""


class BadSample(Exception):
    """A sample cannot be used. The loader counts it by cause (`check.MEANINGS`) and takes another."""

    def __init__(self, broken: Broken) -> None:
        super().__init__(broken)
        self.broken = broken

    def __str__(self) -> str:
        return f"{self.broken.cause}: {self.broken.shard}: {self.broken.key!r} {self.broken.detail}"


@dataclass(frozen=True)
class Pair:
    """An image and its captions; each visit uses one of them."""

    key: str
    pixels: np.ndarray  # uint8 [H, W, 3], RGB
    captions: tuple[str, ...]  # at least one, none empty


class Keyed(Protocol):
    """A sample of any kind, with a name."""

    @property
    def key(self) -> str: ...


Sample = TypeVar("Sample", bound=Keyed, covariant=True)


class Source(Protocol[Sample]):
    """Numbered samples, in blocks that are contiguous on disk. A source derives from it and implements the methods
    that have no body here."""

    blocks: np.ndarray
    """Int64 [S], number of samples per shard; a shard's samples have consecutive numbers."""
    fingerprint: str
    """Hex digest of the list of samples: it changes if any number means another sample, not if contents change."""
    faults: Sequence[Broken] = ()
    """Problems found when the source was opened; their causes are those of `FAULTS`."""
    contents: Mapping[str, int] = MappingProxyType({})
    """Counts of all that was found when the source was opened: shard members of each kind (the kinds of
    `ShardIndex.contents`), or `rows` of a table."""

    @property
    def former_fingerprint(self) -> str:
        """The fingerprint that earlier versions wrote for these samples; it lets their runs resume."""
        return self.fingerprint

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample:
        """Read a sample; raises BadSample if it cannot be used."""
        ...

    def where(self, index: int) -> str:
        """A sample's name and location, for messages. Must not read the sample."""
        ...

    def reduced(self, suffices: Suffices) -> Self:
        """The same samples, with smaller images where that is cheaper to decode and `suffices` accepts the size."""
        return self

    def read_ahead(self, indices: Sequence[int]) -> None:
        """Announce the samples that will be read next, each once. A slow source starts to fetch all of them now."""
        return


class Pairs(Source[Pair], Protocol):
    """Image-caption pairs."""

    def captions(self, limit: int) -> Iterator[str]:
        """At most `limit` captions, evenly spread over the source, to train a tokenizer on. Deterministic."""
        ...


def spread_captions(
    num_pairs: int,
    limit: int,
    captions_of: Callable[[int], Sequence[str]],
    read_ahead: Callable[[Sequence[int]], None] = lambda _: None,
) -> Iterator[str]:
    """At most `limit` captions, from pairs at equal distances, equally many per pair. Broken pairs are skipped."""
    num_visits = min(limit, num_pairs)
    for visit in range(num_visits):
        if visit % READ_AHEAD == 0:
            some = range(visit, min(visit + READ_AHEAD, num_visits))
            read_ahead([each * num_pairs // num_visits for each in some])
        try:
            captions = captions_of(visit * num_pairs // num_visits)
        except BadSample:
            continue  # the loader will count it
        yield from captions[: limit // num_visits]
