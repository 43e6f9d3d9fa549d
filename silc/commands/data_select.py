"""`silc data select`: the samples to keep, by their scores."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

import tyro

from silc import places
from silc.commands import flags
from silc.commands.flags import DeviceName
from silc.data.index_cache import expanded
from silc.data.uids import best_captions, read_subset
from silc.durable import write_whole
from silc.errors import BadInput
from silc.given import Idle
from silc.settings import SEED, Settings
from silc.terminal import announce, complain, say

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np

CLUSTERED = r"image_near|distinct\s+[\"']?[\d.]"
"""Beginnings of the terms that look for the nearest centroid."""


def _has(keep: str, *starts: str) -> bool:
    return any(re.search(rf"\b(?:{start})", keep) for start in starts)


@dataclass(frozen=True)
class SelectCommand(Settings):
    """Choose samples by their scores and write their uids as DataComp's .npy; docs/guides/curation.md has the filters.

    silc data select scores/ --keep 'clip_score top 30%' --and 'image_near imagenet.npy' --and basic --out subset.npy
    """

    idle: ClassVar[tuple[Idle, ...]] = (
        Idle("centroids", lambda c: not _has(c.keep, CLUSTERED), "only image_near and distinct COSINE read it"),
        Idle("seed", lambda c: not _has(c.keep, CLUSTERED, "balanced"), "these terms draw nothing at random"),
        Idle("device", lambda c: not _has(c.keep, "image_near"), "only image_near with a folder of images reads it"),
    )
    scores: tyro.conf.Positional[str]
    """The folder of parquet files that `silc data score` wrote."""
    keep: str
    """What to keep: filters (basic, caption, laion2b, image_near IMAGES|TARGETS.npy, text_based WORDS.txt, balanced
    WORDS.txt MOST, distinct sha256|phash|COSINE, all) and columns compared ('clip_score top 30%', 'words >= 3',
    'language = de'), joined by `and`, `or`, `not` and parentheses. `--and X` and `--or X` after it add to it."""
    out: str
    """The subset, NAME.npy."""
    within: str = ""
    """Choose only among the samples of this subset: an earlier choice, or a list that others published. Shares, copies
    and clusters are then computed in this subset."""
    centroids: str = ""
    """Centroids for image_near and distinct: a file of embeddings, or how many to make from the pool. Empty: one for
    every 256 images, 100,000 at most."""
    seed: Annotated[int, SEED] = 0
    """Seed of what is drawn: balancing, and the images from which centroids are made."""
    device: DeviceName = "auto"
    memory: str = "2GB"
    """Memory for DuckDB; beyond it, DuckDB writes to $TMPDIR."""


def main(args: list[str]) -> int:
    """Choose and write."""
    command = flags.read(SelectCommand, joined(args), "silc data select")
    out = places.file(command.out)
    if out.suffix != ".npy":
        raise BadInput(f"a subset cannot be written to --out {command.out}; give a name that ends in .npy")
    page = places.beside(out.with_suffix(".html"), out, flag="the page")
    places.beside(best_captions(out), out, flag="the best captions")
    announce(f"data select: {command.keep} of {command.scores} into {out}")
    from silc.curate.lookups import Lookups
    from silc.curate.scores import open_scores
    from silc.curate.select import described, page_of, select

    def embed(folder: Path, column: str) -> np.ndarray:
        from silc.curate.targets import embeddings_of  # imports torch, which other filters do not need

        return embeddings_of(scores.about, command.device, folder, column, beside=expanded(command.scores))

    subset = read_subset(expanded(command.within)) if command.within else None
    with open_scores(expanded(command.scores), memory=command.memory) as scores:
        if scores.missing:
            complain(scores.missing)
        if subset is not None:
            scores.within(subset)
        choice = select(scores, command.keep, out, Lookups(scores, command.centroids, command.seed, embed))
        write_whole(page, page_of(scores, command.keep, choice))
    say(described(choice))
    say(f"subset: {out}   effect of each filter: {page}")
    return 0


def joined(args: Sequence[str]) -> list[str]:
    """The words of a command line, with each `--and X` and `--or X` merged into --keep.

    Raises:
        BadInput: one stands before --keep, or is followed by nothing.

    >>> joined(["--keep", "basic", "--and", "words > 2 or chars > 9"])
    ['--keep', '(basic) and (words > 2 or chars > 9)']
    """
    words = [
        part
        for word in args
        for part in (word.split("=", 1) if word.startswith(("--and=", "--or=", "--keep=")) else [word])
    ]
    found: list[str] = []
    place = None
    while words:
        word = words.pop(0)
        if word in ("--and", "--or"):
            if place is None or not words:
                raise BadInput(f"{word} adds a filter to --keep; write --keep FILTER {word} FILTER")
            how, more = word.removeprefix("--"), words.pop(0)
            found[place] = f"{found[place]} {how} ({more})"
        elif word == "--keep" and words:
            found += [word, words.pop(0)]
            place = len(found) - 1
            if any(each in ("--and", "--or") for each in words):
                found[place] = f"({found[place]})"
        else:
            found.append(word)
    return found
