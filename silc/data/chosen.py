"""Training on a subset of the samples of shards, and on one chosen caption per sample."""

from __future__ import annotations

import copy
import hashlib
import logging
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np

from silc.data.index_cache import cache_folder, expanded, kept_uids
from silc.data.pairs import Pair, Pairs, spread_captions
from silc.data.shards import ShardPairs
from silc.data.uids import BEST, best_captions, halves, is_subset, places_in, read_subset, uid_of
from silc.errors import BadInput

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from silc.data.config import DataConfig
    from silc.images import Suffices

log = logging.getLogger(__name__)


class Chosen(Pairs):
    """The pairs of shards whose uids are in a subset, renumbered from 0, in the same shards.

    The fingerprint depends on the chosen samples and not on the name of the subset's file.
    """

    def __init__(self, source: ShardPairs, numbers: np.ndarray, places: np.ndarray | None = None) -> None:
        """
        Args:
            numbers: int64 [n], sorted: numbers of the chosen samples in `source`.
            places: [n], index of the caption to keep for each sample; None keeps all captions.
        """
        self.source, self._numbers, self._places = source, numbers, places
        ends = np.cumsum(source.blocks)
        self.blocks = np.bincount(np.searchsorted(ends, numbers, side="right"), minlength=len(ends)).astype(np.int64)
        digest = hashlib.sha256(numbers.astype("<i8").tobytes()).hexdigest()[:32]
        self.fingerprint = f"{source.fingerprint}-chosen-{digest}"
        self.faults, self.contents = source.faults, source.contents

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, index: int) -> Pair:
        pair = self.source[self._number(index)]
        if self._places is None:
            return pair
        return replace(pair, captions=_one(pair.captions, int(self._places[index])))

    def where(self, index: int) -> str:
        """Key and shard of a sample, for messages."""
        return self.source.where(self._number(index))

    def reduced(self, suffices: Suffices) -> Self:
        """The same pairs; JPEGs are decoded at the smallest scale that `suffices` accepts."""
        chosen = copy.copy(self)
        chosen.source = self.source.reduced(suffices)
        return chosen

    def read_ahead(self, indices: Sequence[int]) -> None:
        """Start to fetch these samples if they are remote."""
        self.source.read_ahead([self._number(index) for index in indices])

    def captions(self, limit: int) -> Iterator[str]:
        """At most `limit` captions of chosen samples at equal distances, equally many per sample. Deterministic."""
        return spread_captions(
            len(self),
            limit,
            lambda index: self.source.texts(self._number(index)),
            lambda indices: self.source.read_texts_ahead([self._number(index) for index in indices]),
        )

    def _number(self, index: int) -> int:
        if not 0 <= index < len(self):
            raise IndexError(index)
        return int(self._numbers[index])


class FirstCaptions(Pairs):
    """The same pairs, each with only its first caption."""

    def __init__(self, source: Pairs) -> None:
        self.source = source
        self.blocks, self.fingerprint = source.blocks, source.fingerprint
        self.faults, self.contents = source.faults, source.contents

    @property
    def former_fingerprint(self) -> str:
        return self.source.former_fingerprint

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Pair:
        pair = self.source[index]
        return replace(pair, captions=pair.captions[:1])

    def where(self, index: int) -> str:
        return self.source.where(index)

    def reduced(self, suffices: Suffices) -> Self:
        pairs = copy.copy(self)
        pairs.source = self.source.reduced(suffices)
        return pairs

    def read_ahead(self, indices: Sequence[int]) -> None:
        self.source.read_ahead(indices)

    def captions(self, limit: int) -> Iterator[str]:
        return self.source.captions(limit)


def as_asked(pairs: Pairs, config: DataConfig, *, show: bool = False) -> Pairs:
    """Apply `data.subset` and `data.captions` to the pairs.

    Raises:
        BadInput: there is a subset and the pairs are not from shards; the subset is not valid or names none of the
            pairs; the best captions are asked for without a subset, or their scores are missing.
    """
    if config.subset:
        file, cache = expanded(config.subset), cache_folder(config.index_cache)
        return _first(_chosen(pairs, file, cache, best=config.captions == "best", show=show), config)
    if config.captions == "best":
        raise BadInput("data.captions best needs the scores of a data.subset, and none is named; name one")
    return _first(pairs, config)


def _first(pairs: Pairs, config: DataConfig) -> Pairs:
    return FirstCaptions(pairs) if config.captions == "first" else pairs


def _chosen(pairs: Pairs, file: Path, cache: Path | None, *, best: bool, show: bool) -> Chosen:
    if not isinstance(pairs, ShardPairs):
        raise BadInput(
            f"data.subset {file} needs tar shards, and data.train names none; make them with `silc data make`"
        )
    subset = read_subset(file)
    uids = pairs.uids(partial(kept_uids, cache), show=show)
    numbers = np.flatnonzero(is_subset(uids, subset)).astype(np.int64)
    if not len(numbers):
        raise BadInput(
            f"data.subset {file} names {len(subset):,} samples, and none of the {len(pairs):,} samples in data.train "
            "is among them: the subset is of other shards, name those in data.train"
        )
    _check_names(pairs, uids, numbers, file)
    if show:
        _tell_absent(file, subset, uids[numbers])
    places = _best(file, subset, uids[numbers]) if best else None
    return Chosen(pairs, numbers, places)


def _tell_absent(file: Path, subset: np.ndarray, found: np.ndarray) -> None:
    """Say how many uids of a subset no shard has."""
    distinct, there = 1 + int((subset[1:] != subset[:-1]).sum()), np.zeros(len(subset), dtype=bool)
    there[places_in(subset, found)] = True  # of equal uids the first
    if absent := distinct - int(there.sum()):
        log.warning("%s of the %s uids of %s are in none of these shards", f"{absent:,}", f"{distinct:,}", file)


def _check_names(pairs: ShardPairs, uids: np.ndarray, numbers: np.ndarray, file: Path) -> None:
    """
    Raises:
        BadInput: two shards have the same name, and the subset has samples without a uid from both: uids that are
            made for samples depend on the shard's name.
    """
    names = [shard.path.name for shard in pairs.shards]
    if len(set(names)) == len(names):
        return
    order = numbers[np.argsort(uids[numbers], order=("f0", "f1"), kind="stable")]
    shards = np.searchsorted(np.cumsum(pairs.blocks), order, side="right")
    same = (uids[order][1:] == uids[order][:-1]) & (shards[1:] != shards[:-1])
    for place in np.flatnonzero(same).tolist():
        one, other = shards[place], shards[place + 1]
        made = halves([uid_of({}, names[one], pairs.key(int(order[place])))])
        if names[one] == names[other] and made[0] == uids[order[place]]:
            raise BadInput(
                f"data.subset {file}: a sample without a uid is identified by the name of its shard, and "
                f"{pairs.shards[one].path} and {pairs.shards[other].path} have the same name; rename one shard and "
                "score it again"
            )


def _best(file: Path, subset: np.ndarray, uids: np.ndarray) -> np.ndarray:
    """Index of the best-scored caption of each sample, read from the file beside the subset.

    Raises:
        BadInput: the file does not exist, or belongs to another subset.
    """
    beside = best_captions(file)
    if not beside.is_file():
        raise BadInput(
            f"data.captions best: {beside} does not exist; `silc data select` writes it beside a subset if some of "
            "its samples have several captions"
        )
    found = np.load(beside, mmap_mode="r", allow_pickle=False)
    others = f"{beside} belongs to another subset than {file}"
    if found.dtype == BEST:
        if found.shape != subset.shape or any((found[half] != subset[half]).any() for half in ("f0", "f1")):
            raise BadInput(f"{others}; move both files together, or select again")
        found = found["best"]
    elif found.shape != subset.shape or found.dtype.kind != "u":
        raise BadInput(f"{others}: {len(found):,} and {len(subset):,} samples")
    return np.asarray(found[places_in(subset, uids)])


def _one(captions: Sequence[str], place: int) -> tuple[str, ...]:
    """The caption at `place`; the first one if the sample now has fewer captions."""
    return (captions[place] if place < len(captions) else captions[0],)
