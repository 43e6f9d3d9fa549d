"""What a source of data is: numbered samples, here pairs of an image and its captions.

Tar shards are in `shards`, a folder with a table of captions in `folder`, generated scenes in `scenes`; `sources` opens
the one that a run is configured for.
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
"""What can be wrong when a source is opened: a shard left out, one used up to a cut, a member that is no plain file."""
READ_AHEAD = 256
"""Captions that are fetched at a time."""


class BadSample(Exception):
    """One pair that cannot be used; the loader counts it by cause (`check.MEANINGS`) and takes another."""

    def __init__(self, broken: Broken) -> None:
        super().__init__(broken)
        self.broken = broken

    def __str__(self) -> str:
        return f"{self.broken.cause}: {self.broken.shard}: {self.broken.key!r} {self.broken.detail}"


@dataclass(frozen=True)
class Pair:
    """An image and the captions it has, of which each visit takes one."""

    key: str
    pixels: np.ndarray  # uint8 [H, W, 3], RGB
    captions: tuple[str, ...]  # at least one, none empty


class Keyed(Protocol):
    """A sample of any kind: it has a name."""

    @property
    def key(self) -> str: ...


Sample = TypeVar("Sample", bound=Keyed, covariant=True)


class Source(Protocol[Sample]):
    """Numbered samples in blocks that lie together on disk. A source derives from it and writes what has no body."""

    blocks: np.ndarray
    """Int64 [S], samples per shard; a shard's samples have consecutive numbers."""
    fingerprint: str
    """Hex digest that changes when a number would mean another sample. Identity of the list, not of the content."""
    faults: Sequence[Broken] = ()
    """What was wrong when the source was opened, by the causes of `FAULTS`."""
    contents: Mapping[str, int] = MappingProxyType({})
    """All that was found when it was opened, by what became of it: members of shards (see `ShardIndex.contents`),
    `rows` of a table."""

    @property
    def former_fingerprint(self) -> str:
        """What earlier versions wrote as the fingerprint of these samples; runs that they began go on by it."""
        return self.fingerprint

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample:
        """Raises BadSample when the sample cannot be used."""
        ...

    def where(self, index: int) -> str:
        """What a sample is called and where it lies, for messages; reads nothing."""
        ...

    def reduced(self, suffices: Suffices) -> Self:
        """The same samples, their images smaller where that is cheaper and `suffices` calls it enough."""
        return self

    def read_ahead(self, indices: Sequence[int]) -> None:
        """Told what will be asked for next, each once; where reading takes long it begins now, for all of them."""
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
    """At most `limit` captions, the same number from pairs at equal distances; pairs that have none are passed over."""
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
